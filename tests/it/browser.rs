//! A headless Chromium, spoken to by the `DevTools` protocol over two pipes: it tells what a page asks for, what it
//! complains of, and how wide it is.

#![allow(clippy::disallowed_methods, reason = "a test starts the program that it tests with")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value as Json, json};

use crate::host;

/// The names under which distributions have it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// How long the browser has for an answer: it starts in a second or two, and a busy host makes that ten.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Json>,
    session: Option<String>,
    next_id: u64,
    /// What the page asked for and complained of since it was last asked.
    seen: Vec<String>,
}

/// What was seen while a page was loaded.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Every address that the page asked for, its own among them.
    pub(crate) requests: Vec<String>,
    /// Errors of scripts, messages on the console, violations of its own policy.
    pub(crate) complaints: Vec<String>,
}

impl Browser {
    /// Starts one; none where this host has none, which it says loudly, unless `LAB_REQUIRE` wants it.
    pub(crate) fn start(home: &Path) -> Option<Self> {
        let Some(program) = host::program(&NAMES) else {
            host::lacks("chromium", "chromium (apt-get install chromium)");
            return None;
        };
        // The protocol comes on descriptors 3 and 4. Root may not use the browser's own sandbox.
        let script = "exec \"$0\" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                      --hide-scrollbars --remote-debugging-pipe --user-data-dir=\"$1\" 3<&0 4>&1 </dev/null >/dev/null";
        let mut child = Command::new("/bin/sh")
            .args(["-c", script])
            .arg(program)
            .arg(home.join("profile"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(home.join("chromium.log")).unwrap())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let messages = listen(child.stdout.take().unwrap());
        let mut browser = Self { child, input, messages, session: None, next_id: 1, seen: Vec::new() };
        let target = browser.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let wanted = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", wanted);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Network", "Runtime", "Log", "Page"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Loads a page at a width, as a phone or a desktop has it.
    pub(crate) fn visit(&mut self, path: &Path, width: u32) -> Visit {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.ask("Emulation.setDeviceMetricsOverride", metrics);
        self.seen.clear();
        let url = format!("file://{}", path.display());
        let answer = self.ask("Page.navigate", json!({ "url": url }));
        assert_eq!(answer["errorText"], Json::Null, "{url}");
        self.await_event("Page.loadEventFired");
        // Two frames later everything that the page begins by itself has begun.
        let frames =
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
        assert_eq!(self.evaluate(frames), json!(true));
        let (requests, complaints) =
            std::mem::take(&mut self.seen).into_iter().partition(|line| line.starts_with("request "));
        let requests: Vec<String> = requests;
        Visit {
            requests: requests.iter().map(|line| line["request ".len()..].to_owned()).collect(),
            complaints,
        }
    }

    /// The value of an expression in the page. Its policy does not bind the developer.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Json {
        let wanted = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", wanted);
        assert_eq!(answer["exceptionDetails"], Json::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// Shows the page as a medium, `screen` or `print`, in a `light` or `dark` scheme, to eyes with a deficiency or
    /// `none`.
    pub(crate) fn emulate(&mut self, medium: &str, scheme: &str, deficiency: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask("Emulation.setEmulatedMedia", json!({ "media": medium, "features": features }));
        self.ask("Emulation.setEmulatedVisionDeficiency", json!({ "type": deficiency }));
    }

    /// A picture of the whole page.
    pub(crate) fn screenshot(&mut self, path: &Path) -> Vec<u8> {
        let answer = self.ask("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let bytes = BASE64.decode(answer["data"].as_str().unwrap().as_bytes()).unwrap();
        fs::write(path, &bytes).unwrap();
        bytes
    }

    /// Sends a command and waits for its answer; what comes before it is noted.
    fn ask(&mut self, method: &str, parameters: Json) -> Json {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.input.write_all(message.to_string().as_bytes()).unwrap();
        self.input.write_all(b"\0").unwrap();
        loop {
            let message = self.next(method);
            if message["id"] == id {
                assert_eq!(message["error"], Json::Null, "{method}");
                return message["result"].clone();
            }
        }
    }

    fn await_event(&mut self, method: &str) {
        while self.next(method)["method"] != method {}
    }

    fn next(&mut self, wanted: &str) -> Json {
        let message = self.messages.recv_timeout(ANSWER_MAX);
        let message = message.unwrap_or_else(|error| panic!("the browser does not answer {wanted}: {error}"));
        self.seen.extend(noted(&message));
        message
    }
}

/// What a message says of the page, if it says something.
fn noted(message: &Json) -> Option<String> {
    let parameters = &message["params"];
    match message["method"].as_str()? {
        "Network.requestWillBeSent" => Some(format!("request {}", parameters["request"]["url"].as_str()?)),
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" => Some(parameters["args"].to_string()),
        "Log.entryAdded" => Some(parameters["entry"]["text"].to_string()),
        _ => None,
    }
}

/// Messages of the browser, each ended by a zero.
fn listen(output: ChildStdout) -> Receiver<Json> {
    let (sender, receiver) = sync_channel(1_000);
    std::thread::spawn(move || {
        for message in BufReader::new(output).split(0).map_while(Result::ok) {
            let message = serde_json::from_slice(&message).unwrap();
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
