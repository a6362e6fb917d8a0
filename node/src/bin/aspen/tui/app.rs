//! What the terminal shows, and what becomes of it with each key that is pressed and each answer that comes. No terminal and no
//! network: what is to be asked is given back.

use std::net::SocketAddr;
use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value as Json, json};

use super::cluster::{Cluster, Look};
use super::keys::Keys;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Cluster,
    Keys,
}

/// What stands in front of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Dialog {
    Help,
    /// A change that has to be confirmed.
    Confirm {
        question: String,
        change: Change,
    },
    /// A line that is typed.
    Line {
        what: LineOf,
        text: String,
    },
}

/// What a typed line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LineOf {
    /// What the keys are to begin with.
    Prefix,
    /// A key that is to be written.
    NewKey,
    /// What a key is to hold.
    ValueOf(Vec<u8>),
}

/// Something that is to be done, and how it is called when it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    /// Of this node; otherwise of any.
    pub(crate) at: Option<SocketAddr>,
    pub(crate) path: &'static str,
    pub(crate) body: Json,
    pub(crate) done: String,
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Input {
    Key(KeyEvent),
    /// Something that was pasted.
    Text(String),
    Looked(Result<Look, String>),
    Page {
        asked: Json,
        answer: Result<Json, String>,
    },
    Changed {
        done: String,
        result: Result<(), String>,
    },
}

/// What is to be asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Look,
    Page(Json),
    Change(Change),
}

/// Everything that is shown.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) view: View,
    pub(crate) cluster: Cluster,
    pub(crate) keys: Keys,
    pub(crate) dialog: Option<Dialog>,
    /// What came of the last change, and whether it was done.
    pub(crate) message: Option<(String, bool)>,
    pub(crate) is_over: bool,
}

impl App {
    pub(crate) fn new() -> Self {
        Self {
            view: View::Cluster,
            cluster: Cluster::default(),
            keys: Keys::default(),
            dialog: None,
            message: None,
            is_over: false,
        }
    }

    /// Takes something in; what is to be asked for it.
    pub(crate) fn take(&mut self, input: Input, now: Instant) -> Vec<Request> {
        match input {
            Input::Key(key) => self.press(key),
            Input::Text(pasted) => {
                // It is text where one types, and no commands anywhere else.
                if let Some(Dialog::Line { text, .. }) = &mut self.dialog {
                    text.extend(pasted.chars().filter(|character| !character.is_control()));
                }
                Vec::new()
            }
            Input::Looked(seen) => {
                self.cluster.take(seen, now);
                Vec::new()
            }
            Input::Page { asked, answer } => {
                self.keys.take(&asked, answer.as_ref().map_err(Clone::clone));
                Vec::new()
            }
            Input::Changed { done, result } => {
                self.message = Some(match result {
                    Ok(()) => {
                        self.cluster.note(now, done.clone());
                        (done, true)
                    }
                    Err(error) => (error, false),
                });
                let page = (self.view == View::Keys).then(|| Request::Page(self.keys.first_page()));
                [Request::Look].into_iter().chain(page).collect()
            }
        }
    }

    fn press(&mut self, key: KeyEvent) -> Vec<Request> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            self.is_over = true;
            return Vec::new();
        }
        // Together with these a letter is another key.
        let is_other = key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
        if is_other && matches!(key.code, KeyCode::Char(_)) {
            return Vec::new();
        }
        self.message = None;
        match self.dialog.take() {
            None => self.command(key.code),
            // Any key ends it.
            Some(Dialog::Help) => Vec::new(),
            Some(Dialog::Confirm { question, change }) => match key.code {
                KeyCode::Char('y') => vec![Request::Change(change)],
                KeyCode::Char('n' | 'q') | KeyCode::Esc => Vec::new(),
                _ => {
                    self.dialog = Some(Dialog::Confirm { question, change });
                    Vec::new()
                }
            },
            Some(Dialog::Line { what, text }) => self.line(key.code, what, text),
        }
    }

    fn command(&mut self, code: KeyCode) -> Vec<Request> {
        match code {
            KeyCode::Char('q') => self.is_over = true,
            KeyCode::Char('?' | 'h') => self.dialog = Some(Dialog::Help),
            KeyCode::Tab | KeyCode::BackTab => {
                self.view = if self.view == View::Cluster { View::Keys } else { View::Cluster };
                if self.view == View::Keys {
                    return vec![Request::Page(self.keys.first_page())];
                }
            }
            KeyCode::Up | KeyCode::Char('k') => return self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => return self.select(1),
            KeyCode::PageUp => return self.select(-20),
            KeyCode::PageDown => return self.select(20),
            KeyCode::Home => return self.select(isize::MIN),
            KeyCode::End => return self.select(isize::MAX),
            _ if self.view == View::Cluster => self.ask_of_member(code),
            _ => return self.ask_of_key(code),
        }
        Vec::new()
    }

    fn select(&mut self, by: isize) -> Vec<Request> {
        match self.view {
            View::Cluster => {
                self.cluster.select(by);
                Vec::new()
            }
            View::Keys => {
                self.keys.select(by);
                self.keys.next_page().map(Request::Page).into_iter().collect()
            }
        }
    }

    /// Asks whether a member is to be changed.
    fn ask_of_member(&mut self, code: KeyCode) {
        let Some(member) = self.cluster.member() else { return };
        let (id, http) = (member.id, member.http);
        let change = |path, done: String| Change { at: None, path, body: json!({ "id": id }), done };
        let (question, change) = match code {
            KeyCode::Char('p') if !member.is_voter => {
                let done = format!("node {id} votes");
                (format!("Let node {id} vote?"), change("/cluster/promote-learner", done))
            }
            KeyCode::Char('l') if member.is_voter => {
                let done = format!("node {id} leads");
                (format!("Hand leadership to node {id}?"), change("/cluster/transfer-leader", done))
            }
            KeyCode::Char('x') => {
                let question =
                    format!("Take node {id} out of the cluster? It can only come back as a new one.");
                (question, change("/cluster/remove-member", format!("node {id} is removed")))
            }
            KeyCode::Char('s') => {
                let done = format!("node {id} has a snapshot of its state");
                let change = Change { at: Some(http), path: "/cluster/snapshot", body: json!({}), done };
                (format!("Make a snapshot on node {id}?"), change)
            }
            KeyCode::Char('p') => {
                self.message = Some((format!("node {id} votes already"), false));
                return;
            }
            KeyCode::Char('l') => {
                self.message = Some((format!("node {id} does not vote, so it cannot lead"), false));
                return;
            }
            _ => return,
        };
        self.dialog = Some(Dialog::Confirm { question, change });
    }

    /// Asks what is to be done with a key.
    fn ask_of_key(&mut self, code: KeyCode) -> Vec<Request> {
        let line = |what, text: String| Some(Dialog::Line { what, text });
        match (code, self.keys.entry()) {
            (KeyCode::Char('/'), _) => self.dialog = line(LineOf::Prefix, self.keys.prefix.clone()),
            (KeyCode::Char('n'), _) => self.dialog = line(LineOf::NewKey, String::new()),
            (KeyCode::Char('r'), _) => return vec![Request::Page(self.keys.first_page())],
            (KeyCode::Char('e') | KeyCode::Enter, Some(entry)) => {
                match String::from_utf8(entry.value.clone()) {
                    Ok(text) if !text.chars().any(char::is_control) => {
                        self.dialog = line(LineOf::ValueOf(entry.key.clone()), text);
                    }
                    _ => {
                        let text = "only a value that is one line of text can be edited here".to_owned();
                        self.message = Some((text, false));
                    }
                }
            }
            (KeyCode::Char('d') | KeyCode::Delete, Some(entry)) => {
                let name = entry.name();
                let body = with_bytes(json!({}), "key", &entry.key);
                let change =
                    Change { at: None, path: "/kv/delete", body, done: format!("{name} is deleted") };
                self.dialog = Some(Dialog::Confirm { question: format!("Delete {name}?"), change });
            }
            _ => {}
        }
        Vec::new()
    }

    /// Goes on with a line that is typed.
    fn line(&mut self, code: KeyCode, what: LineOf, mut text: String) -> Vec<Request> {
        match code {
            KeyCode::Esc => return Vec::new(),
            KeyCode::Enter => return self.typed(what, text),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char(character) => text.push(character),
            _ => {}
        }
        self.dialog = Some(Dialog::Line { what, text });
        Vec::new()
    }

    fn typed(&mut self, what: LineOf, text: String) -> Vec<Request> {
        match what {
            LineOf::Prefix => {
                self.keys.prefix = text;
                self.keys.selected = 0;
                vec![Request::Page(self.keys.first_page())]
            }
            LineOf::NewKey if text.is_empty() => Vec::new(),
            LineOf::NewKey => {
                let what = LineOf::ValueOf(text.into_bytes());
                self.dialog = Some(Dialog::Line { what, text: String::new() });
                Vec::new()
            }
            LineOf::ValueOf(key) => {
                let set = with_bytes(json!({ "value": text }), "key", &key);
                let done = format!("{} is written", crate::kv::visible(&key));
                let body = json!({ "command": { "Set": set } });
                vec![Request::Change(Change { at: None, path: "/kv/write", body, done })]
            }
        }
    }
}

/// Adds bytes under a name: as text, or else in Base64.
fn with_bytes(mut body: Json, name: &str, bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => body[name] = text.into(),
        Err(_) => body[format!("{name}_base64")] = data_encoding::BASE64.encode(bytes).into(),
    }
    body
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tui::cluster::tests::look;

    /// Presses keys one after the other: what the last one asks for.
    pub(crate) fn press(app: &mut App, codes: &[KeyCode]) -> Vec<Request> {
        let pressed = |code: &KeyCode| Input::Key(KeyEvent::new(*code, KeyModifiers::NONE));
        let asked = codes.iter().map(|code| app.take(pressed(code), Instant::now()));
        asked.last().unwrap_or_default()
    }

    pub(crate) fn typed(text: &str) -> Vec<KeyCode> {
        text.chars().map(KeyCode::Char).collect()
    }

    pub(crate) fn app(marks: &str) -> App {
        let mut app = App::new();
        app.take(Input::Looked(Ok(look(1, marks, 7))), Instant::now());
        app
    }

    #[test]
    fn nothing_is_changed_before_it_is_confirmed() {
        let mut app = app("++-");
        assert_eq!(press(&mut app, &[KeyCode::Down, KeyCode::Down, KeyCode::Char('p')]), []);
        assert!(
            matches!(&app.dialog, Some(Dialog::Confirm { question, .. }) if question == "Let node 3 vote?")
        );
        assert_eq!(press(&mut app, &[KeyCode::Char('n')]), []);
        assert_eq!(app.dialog, None);
        let asked = press(&mut app, &typed("py"));
        let [Request::Change(change)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((change.path, &change.body), ("/cluster/promote-learner", &json!({ "id": 3 })));
    }

    #[test]
    fn what_makes_no_sense_is_not_asked() {
        let mut app = app("+-");
        press(&mut app, &typed("p"));
        assert_eq!((&app.dialog, app.message.as_ref().unwrap().0.as_str()), (&None, "node 1 votes already"));
        press(&mut app, &typed("jl"));
        assert_eq!(app.message.as_ref().unwrap().0, "node 2 does not vote, so it cannot lead");
    }

    #[test]
    fn key_is_found_written_and_deleted() {
        let mut app = app("+");
        press(&mut app, &[KeyCode::Tab]);
        let mut asked = press(&mut app, &[typed("/us"), vec![KeyCode::Enter]].concat());
        let Some(Request::Page(page)) = asked.pop() else { panic!("{asked:?}") };
        assert_eq!(page["prefix"], "us");
        let answer =
            Ok(json!({ "entries": [{ "key": "user", "value": "ann" }], "continuation_token": null }));
        app.take(Input::Page { asked: page, answer }, Instant::now());
        let asked = press(
            &mut app,
            &[typed("e"), vec![KeyCode::Backspace], typed("a"), vec![KeyCode::Enter]].concat(),
        );
        let [Request::Change(change)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!(change.body, json!({ "command": { "Set": { "key": "user", "value": "ana" } } }));
        let asked = press(&mut app, &typed("dy"));
        let [Request::Change(change)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((change.path, &change.body), ("/kv/delete", &json!({ "key": "user" })));
    }

    #[test]
    fn letters_that_are_typed_into_a_line_are_no_commands() {
        let mut app = app("+");
        press(
            &mut app,
            &[vec![KeyCode::Tab], typed("nq?"), vec![KeyCode::Enter], typed("v"), vec![KeyCode::Esc]]
                .concat(),
        );
        assert!(!app.is_over && app.dialog.is_none());
        // Nor is what is pasted, wherever that is.
        app.take(Input::Text("dy\nq".to_owned()), Instant::now());
        assert!(!app.is_over && app.dialog.is_none());
        press(&mut app, &typed("/"));
        app.take(Input::Text("us\ter\n".to_owned()), Instant::now());
        press(&mut app, &[KeyCode::Enter]);
        assert_eq!(app.keys.prefix, "user");
        press(&mut app, &typed("q"));
        assert!(app.is_over);
    }
}
