//! How everything looks.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{
    Block, Cell, Clear, List, ListItem, ListState, Paragraph, Row, Sparkline, Table, TableState, Wrap,
};

use super::app::{App, Dialog, LineOf, View};
use super::cluster::{Look, Member};

const HELP: &[(&str, &str)] = &[
    ("Tab", "the cluster or the keys"),
    ("Up, Down, j, k", "select; PageUp, PageDown, Home, End go further"),
    ("p", "let the selected learner vote"),
    ("l", "hand leadership to the selected voter"),
    ("x", "take the selected node out of the cluster"),
    ("s", "make a snapshot on the selected node"),
    ("/", "show the keys that begin like this"),
    ("e, Enter", "edit the value of the selected key"),
    ("n", "write a new key"),
    ("d", "delete the selected key"),
    ("r", "read the keys again"),
    ("q, Ctrl-C", "leave"),
];

/// Draws everything.
pub(crate) fn draw(app: &App, now: Instant, frame: &mut Frame<'_>) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(headline(app), head);
    match app.view {
        View::Cluster => draw_cluster(app, now, frame, body),
        View::Keys => draw_keys(app, frame, body),
    }
    frame.render_widget(footline(app), foot);
    draw_dialog(app, frame);
}

fn headline(app: &App) -> Paragraph<'_> {
    let mut spans = vec![" Aspen ".bold().reversed(), " ".into()];
    match &app.cluster.look {
        None => spans.push("looking for the cluster".into()),
        Some((look, _)) => {
            let voters = look.members.iter().filter(|member| member.is_voter).count();
            spans.push(match look.leader {
                Some(id) => Span::from(format!("node {id} leads")).green(),
                None => Span::from("nobody leads").red(),
            });
            let rate = app.cluster.rates.back().copied().unwrap_or(0);
            spans.push(
                format!(
                    "  term {}  {} of {} members vote  revision {}  {rate} entries/s",
                    look.term,
                    voters,
                    look.members.len(),
                    look.last()
                )
                .into(),
            );
        }
    }
    if let Some(error) = &app.cluster.error {
        spans.push(Span::from(format!("  {error}")).red());
    }
    Paragraph::new(Line::from(spans))
}

fn footline(app: &App) -> Paragraph<'_> {
    if let Some((text, is_done)) = &app.message {
        let style = if *is_done { Style::new().green() } else { Style::new().red() };
        return Paragraph::new(Span::styled(format!(" {text}"), style));
    }
    let text = match app.view {
        View::Cluster => " Tab keys   p promote   l make leader   x remove   s snapshot   ? help   q leave",
        View::Keys => " Tab cluster   / prefix   e edit   n new   d delete   r again   ? help   q leave",
    };
    Paragraph::new(text.dim())
}

fn draw_cluster(app: &App, now: Instant, frame: &mut Frame<'_>, area: Rect) {
    let Some((look, _)) = &app.cluster.look else { return };
    let rows = u16::try_from(look.members.len()).unwrap_or(u16::MAX).saturating_add(3);
    let [members, rate, events] = Layout::vertical([
        Constraint::Max(rows),
        Constraint::Length(if area.height > rows.saturating_add(8) { 5 } else { 0 }),
        Constraint::Min(3),
    ])
    .areas(area);
    let mut state = TableState::new().with_selected(app.cluster.selected);
    frame.render_stateful_widget(table(look), members, &mut state);
    if rate.height > 0 {
        let columns = usize::from(rate.width.saturating_sub(2));
        let skipped = app.cluster.rates.len().saturating_sub(columns);
        let data: Vec<u64> = app.cluster.rates.iter().skip(skipped).copied().collect();
        let most = data.iter().max().copied().unwrap_or(0);
        let block = Block::bordered().title(format!(" entries applied a second, {most} at most "));
        frame.render_widget(Sparkline::default().data(data).block(block).green(), rate);
    }
    let lines = app.cluster.events.iter().map(|(then, text)| {
        let ago = now.saturating_duration_since(*then).as_secs();
        Line::from(vec![format!("{:>8}  ", ago_text(ago)).dim(), text.as_str().into()])
    });
    let block = Block::bordered().title(" what has happened ");
    frame.render_widget(Paragraph::new(lines.collect::<Text<'_>>()).block(block), events);
}

fn table(look: &Look) -> Table<'static> {
    let has_places = look.members.iter().any(|member| member.place.is_some());
    // Where there is one more column, the numbers have a little less.
    let number = if has_places { 10 } else { 12 };
    let mut widths = vec![
        Constraint::Length(6),
        Constraint::Length(10),
        Constraint::Length(6),
        Constraint::Length(14),
        Constraint::Length(number),
        Constraint::Length(9),
        Constraint::Length(number),
        Constraint::Min(15),
    ];
    let last = look.last();
    let mut head = vec!["node", "role", "votes", "health", "applied", "behind", "snapshot", "http"];
    if has_places {
        widths.push(Constraint::Min(10));
        head.push("region");
    }
    let rows: Vec<Row<'static>> = look.members.iter().map(|member| row(member, last)).collect();
    Table::new(rows, widths)
        .header(Row::new(head).bold())
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(" members "))
}

fn row(member: &Member, last: u64) -> Row<'static> {
    let (word, color) = health(member);
    let state = member.state.as_ref();
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let role = state.map_or("-", |state| state.role.as_str()).to_owned();
    let role = if role == "leader" { Cell::from(role.green().bold()) } else { Cell::from(role) };
    Row::new([
        Cell::from(member.id.to_string()),
        role,
        Cell::from(if member.is_voter { "yes" } else { "no" }),
        Cell::from(word.fg(color)),
        Cell::from(number(state.map(|state| state.applied))),
        Cell::from(number(state.map(|state| last.saturating_sub(state.applied)))),
        Cell::from(number(state.and_then(|state| state.snapshot))),
        Cell::from(member.http.to_string()),
        Cell::from(member.place.clone().unwrap_or_default()),
    ])
}

/// How a member is, by its own answer and its leader's word.
fn health(member: &Member) -> (String, Color) {
    match (&member.state, member.health.as_deref()) {
        (Some(_), None | Some("healthy")) => ("healthy".to_owned(), Color::Green),
        (None, None | Some("healthy")) => ("no answer".to_owned(), Color::Red),
        (_, Some("slow")) => ("slow".to_owned(), Color::Yellow),
        (_, Some(word)) => (word.to_owned(), Color::Red),
    }
}

fn draw_keys(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let [list, value] = Layout::horizontal([Constraint::Percentage(40), Constraint::Min(20)]).areas(area);
    let keys = &app.keys;
    let count = format!("{}{}", keys.entries.len(), if keys.is_truncated() { " and more" } else { "" });
    let title = if keys.prefix.is_empty() {
        format!(" {count} keys ")
    } else {
        format!(" {count} keys that begin with {} ", keys.prefix)
    };
    let items = keys.entries.iter().map(|entry| ListItem::new(entry.name()));
    let widget = List::new(items)
        .block(Block::bordered().title(title))
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = ListState::default().with_selected((!keys.entries.is_empty()).then_some(keys.selected));
    frame.render_stateful_widget(widget, list, &mut state);
    let (title, text) = match (&keys.error, keys.entry()) {
        (Some(error), _) => (" not read ".to_owned(), Text::from(error.as_str()).red()),
        (None, None) if keys.is_loading => (String::new(), Text::from("reading")),
        (None, None) => (String::new(), Text::from("There is no such key. n writes one.")),
        (None, Some(entry)) => {
            let title = format!(
                " {} bytes, version {}, written at revision {}, made at {} ",
                entry.value.len(),
                entry.version,
                entry.mod_revision,
                entry.create_revision
            );
            (title, Text::from(entry.text()))
        }
    };
    let widget = Paragraph::new(text).wrap(Wrap { trim: false }).block(Block::bordered().title(title));
    frame.render_widget(widget, value);
}

fn draw_dialog(app: &App, frame: &mut Frame<'_>) {
    let (title, text) = match &app.dialog {
        None => return,
        Some(Dialog::Help) => {
            let lines = HELP.iter().map(|(key, what)| {
                Line::from(vec![Span::from(format!("{key:<16}")).bold(), Span::from(*what)])
            });
            (" keys of the keyboard ".to_owned(), lines.collect())
        }
        Some(Dialog::Confirm { question, .. }) => (
            " sure? ".to_owned(),
            Text::from(vec![Line::from(question.as_str()), Line::from("y yes   n no".dim())]),
        ),
        Some(Dialog::Line { what, text }) => {
            let title = match what {
                LineOf::Prefix => " keys that begin with ".to_owned(),
                LineOf::NewKey => " a new key ".to_owned(),
                LineOf::ValueOf(key) => format!(" the value of {} ", crate::kv::visible(key)),
            };
            let line = Line::from(vec![Span::from(text.as_str()), "█".into()]);
            (title, Text::from(vec![line, Line::from("Enter takes it, Esc leaves it".dim())]))
        }
    };
    let area = frame.area();
    let width =
        u16::try_from(text.width().max(title.len()) + 4).unwrap_or(u16::MAX).clamp(34, area.width.max(34));
    let lines = u16::try_from(text.height()).unwrap_or(u16::MAX);
    // A question that is longer than the window is broken into lines.
    let broken = u16::try_from(text.width()).unwrap_or(u16::MAX) / width.saturating_sub(2).max(1);
    let height = lines.saturating_add(broken).saturating_add(2).min(area.height);
    let place = Rect {
        x: area.width.saturating_sub(width) / 2,
        y: area.height.saturating_sub(height) / 2,
        width: width.min(area.width),
        height,
    };
    frame.render_widget(Clear, place);
    let widget = Paragraph::new(text).wrap(Wrap { trim: false }).block(Block::bordered().title(title));
    frame.render_widget(widget, place);
}

fn ago_text(seconds: u64) -> String {
    match seconds {
        0 => "now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;
    use serde_json::json;

    use super::*;
    use crate::tui::app::tests::{app, press, typed};
    use crate::tui::app::{Input, Request};

    /// The lines of a terminal of this size.
    fn shown(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(app, Instant::now(), frame)).unwrap();
        terminal.backend().to_string()
    }

    #[track_caller]
    fn check(app: &App, wanted: &[&str]) {
        let text = shown(app, 100, 24);
        for want in wanted {
            assert!(text.contains(want), "`{want}` is not in\n{text}");
        }
    }

    #[test]
    fn every_member_is_a_line_with_what_it_is_and_how_it_is() {
        let mut app = app("+!-");
        check(
            &app,
            &[
                "node 1 leads  term 1  2 of 3 members vote  revision 7",
                "1      leader     yes    healthy        7",
                "2      -          yes    crashed        -",
                "3      learner    no     healthy        7",
            ],
        );
        app.take(Input::Looked(Err("nobody answers".to_owned())), Instant::now());
        check(&app, &["nobody answers", "now  no node can be reached"]);
    }

    #[test]
    fn where_members_are_is_a_column_if_anybody_says_so() {
        let mut app = app("++");
        assert!(!shown(&app, 100, 24).contains("region"));
        let mut look = crate::tui::cluster::tests::look(1, "++", 7);
        look.members[1].place = Some("eu/eu-1".to_owned());
        app.take(Input::Looked(Ok(look)), Instant::now());
        check(&app, &["http            region", "127.0.0.1:8002  eu/eu-1"]);
    }

    #[test]
    fn key_and_its_record_are_side_by_side() {
        let mut app = app("+");
        let Some(Request::Page(asked)) = press(&mut app, &[KeyCode::Tab]).pop() else { panic!() };
        check(&app, &["reading"]);
        let entry =
            json!({ "key": "user", "value": "ann", "version": 3, "mod_revision": 9, "create_revision": 2 });
        let answer = Ok(json!({ "entries": [entry], "continuation_token": null }));
        app.take(Input::Page { asked, answer }, Instant::now());
        check(&app, &["1 keys", "│user", "3 bytes, version 3, written at revision 9, made at 2", "│ann"]);
        press(&mut app, &typed("d"));
        check(&app, &["Delete user?", "y yes   n no"]);
    }

    #[test]
    fn no_window_is_too_small() {
        let mut small = app("+++++++++");
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 100)] {
            for keys in ["", "?", "\u{1b}", "x"] {
                press(&mut small, &typed(keys));
                shown(&small, width, height);
            }
            small.dialog = None;
        }
    }
}
