//! `aspen tui`: the cluster on a terminal, as it changes: who leads, who answers, how far everybody is, and the keys.

mod app;
mod ask;
mod cluster;
mod draw;
mod keys;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, EnableBracketedPaste, Event, KeyEvent, KeyEventKind,
};
use ratatui::crossterm::execute;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use self::app::{App, Input, Request};
use super::access::Access;
use super::session::Failure;

/// How often the cluster is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long one node is waited for at a look.
const LOOK_TIMEOUT: Duration = Duration::from_millis(800);
/// Keys that are asked for at a time.
const KEYS_PAGE: u16 = 200;
/// Keys that are kept: who looks for more gives a longer prefix.
const KEYS_MAX: usize = 10_000;
/// Bytes of a value that are shown.
const SHOWN_BYTES_MAX: usize = 16 * 1024;
/// Changes that are remembered.
const EVENTS_MAX: usize = 200;
/// Seconds of which the rate is remembered: as many as a wide terminal has columns.
const RATES_MAX: usize = 300;
/// Keys pressed that may wait to be looked at.
const PRESSED_MAX: usize = 64;

/// Shows a cluster until one has seen enough.
pub(crate) fn run(access: Access) -> Result<Vec<u8>, Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Io)?;
    let pressed = keyboard().map_err(Failure::Io)?;
    let shown = ratatui::try_init().and_then(|mut terminal| {
        execute!(io::stdout(), EnableBracketedPaste)?;
        runtime.block_on(show(&mut terminal, &access, pressed))
    });
    // Whatever went wrong, the terminal is as it was. One that is gone cannot be told.
    let _ = execute!(io::stdout(), DisableBracketedPaste);
    ratatui::restore();
    shown.map(|()| Vec::new()).map_err(Failure::Output)
}

/// What comes from a keyboard.
enum Pressed {
    Key(KeyEvent),
    Text(String),
    /// The window has another size.
    Resized,
}

/// What comes from the keyboard, read on a thread of its own, which ends with the process.
fn keyboard() -> io::Result<mpsc::Receiver<Pressed>> {
    let (sender, pressed) = mpsc::channel(PRESSED_MAX);
    std::thread::Builder::new().name("keyboard".into()).spawn(move || {
        while let Ok(event) = event::read() {
            let key = match event {
                Event::Key(key) if key.kind == KeyEventKind::Press => Pressed::Key(key),
                Event::Paste(text) => Pressed::Text(text),
                Event::Resize(..) => Pressed::Resized,
                _ => continue,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    })?;
    Ok(pressed)
}

async fn show(
    terminal: &mut DefaultTerminal,
    given: &Access,
    mut pressed: mpsc::Receiver<Pressed>,
) -> io::Result<()> {
    let mut app = App::new();
    let mut answers: JoinSet<Input> = JoinSet::new();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_looking = false;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    while !app.is_over {
        terminal.draw(|frame| draw::draw(&app, Instant::now(), frame))?;
        let mut is_due = false;
        let input = tokio::select! {
            key = pressed.recv() => match key {
                Some(Pressed::Key(key)) => Some(Input::Key(key)),
                Some(Pressed::Text(text)) => Some(Input::Text(text)),
                Some(Pressed::Resized) => None,
                // Nobody is at the keyboard any more.
                None => return Ok(()),
            },
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            Some(answer) = answers.join_next() => answer.ok(),
            _ = ticks.tick() => {
                is_due = true;
                None
            }
        };
        is_looking &= !matches!(input, Some(Input::Looked(_)));
        let mut requests = input.map(|input| app.take(input, Instant::now())).unwrap_or_default();
        if is_due {
            requests.push(Request::Look);
        }
        for request in requests {
            let access = access(&app, given);
            match request {
                // One look at a time, however long it takes.
                Request::Look if is_looking => {}
                Request::Look => {
                    is_looking = true;
                    answers.spawn(ask::look(access));
                }
                Request::Page(asked) => drop(answers.spawn(ask::page(access, asked))),
                Request::Change(change) => drop(answers.spawn(ask::change(access, change))),
            }
        }
    }
    Ok(())
}

/// Whom to ask: those that were named and, in case they are gone, the members that answered last.
fn access(app: &App, given: &Access) -> Access {
    let members = app.cluster.look.iter().flat_map(|(look, _)| &look.members);
    let there = members.filter(|member| member.state.is_some()).map(|member| member.http);
    let mut access = given.clone();
    access.nodes.extend(there.filter(|http| !given.nodes.contains(http)));
    access
}
