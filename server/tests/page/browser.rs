//! A headless Chromium, driven over the DevTools protocol.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::program::LONG;

/// Names under which distributions install it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Flags without which it does not run as root, shows prompts, or contacts its vendor.
const FLAGS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-proxy-server",
    // The server under test makes its own certificate.
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
];

pub(crate) struct Browser {
    process: Child,
    /// Folder of its profile, removed on drop.
    folder: PathBuf,
    devtools: WebSocket<TcpStream>,
    last_id: u64,
}

/// One page of the browser.
pub(crate) struct Tab<'a> {
    browser: &'a mut Browser,
    session: String,
}

impl Browser {
    /// Starts the browser; returns `None`, and prints a line, where there is no Chromium.
    pub(crate) fn start() -> Option<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("sparring-chromium-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let Some(mut process) = NAMES.iter().find_map(|name| spawn(name, &folder)) else {
            let _ = std::fs::remove_dir_all(folder);
            println!("skipped: no Chromium here (apt-get install chromium)");
            return None;
        };
        let mut errors = BufReader::new(process.stderr.take().expect("piped"));
        let mut url = None;
        let mut line = String::new();
        while url.is_none() && errors.read_line(&mut line).is_ok_and(|len| len > 0) {
            url = line.trim().strip_prefix("DevTools listening on ").map(str::to_owned);
            line.clear();
        }
        let url = url.expect("Chromium says where its DevTools listen");
        // A full pipe would stop the browser.
        thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        let address = url.split('/').nth(2).expect("host and port");
        let stream = TcpStream::connect(address).expect("DevTools");
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        let devtools = tungstenite::client(&url, stream).expect("DevTools speak WebSocket").0;
        Some(Self { process, folder, devtools, last_id: 0 })
    }

    /// Sends a command and returns its result; events before it are discarded.
    fn call(&mut self, session: Option<&str>, method: &str, parameters: &Value) -> Value {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        self.devtools.send(Message::text(command.to_string())).expect("command");
        loop {
            let Message::Text(text) = self.devtools.read().expect("answer") else { continue };
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
        }
    }

    pub(crate) fn open(&mut self, url: &str) -> Tab<'_> {
        let target =
            self.call(None, "Target.createTarget", &json!({ "url": url }))["targetId"].clone();
        let attached = self.call(
            None,
            "Target.attachToTarget",
            &json!({ "targetId": target, "flatten": true }),
        );
        let session = attached["sessionId"].as_str().expect("a session").to_owned();
        Tab { browser: self, session }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(name: &str, folder: &Path) -> Option<Child> {
    let mut command = Command::new(name);
    command.args(FLAGS).arg(format!("--user-data-dir={}", folder.display())).arg("about:blank");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()
}

impl Tab<'_> {
    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.browser.call(Some(&self.session), method, parameters)
    }

    /// Returns the value of a script's last expression, or of its promise.
    pub(crate) fn run(&mut self, script: &str) -> Value {
        let parameters =
            json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", &parameters);
        assert!(result["exceptionDetails"].is_null(), "{script}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until a script is true.
    pub(crate) fn until(&mut self, script: &str) {
        let end = Instant::now() + LONG;
        while self.run(script) != true {
            assert!(
                Instant::now() < end,
                "never true: {script}\n{}",
                self.run("document.body?.innerText")
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clicks at the element's place, as a mouse would: an element that covers it gets the click.
    pub(crate) fn click(&mut self, id: &str) {
        let at = self.run(&format!(
            "(() => {{ const e = document.getElementById('{id}'); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// Types into a field, replacing its content.
    pub(crate) fn fill(&mut self, id: &str, text: &str) {
        self.run(&format!(
            "(() => {{ const e = document.getElementById('{id}'); e.focus(); e.select(); }})()"
        ));
        self.call("Input.insertText", &json!({ "text": text }));
    }

    pub(crate) fn choose(&mut self, id: &str, value: &str) {
        self.run(&format!("document.getElementById('{id}').value = '{value}'"));
    }

    /// Returns a picture of the page, as PNG in base64.
    pub(crate) fn picture(&mut self) -> String {
        let picture = self.call(
            "Page.captureScreenshot",
            &json!({ "format": "png", "captureBeyondViewport": true }),
        );
        picture["data"].as_str().expect("a picture").to_owned()
    }
}
