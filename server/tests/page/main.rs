//! The page for browsers: the bytes that are served, and its behaviour in a real browser.

mod browser;
#[path = "../program/mod.rs"]
mod program;

use std::fs;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::json;

use browser::{Browser, Tab};
use program::{Program, engines, rest};

/// Variable with the folder for pictures of the page, for people to look at.
const PICTURES: &str = "SPARRING_PICTURES";

fn get(server: &Program, target: &str) -> String {
    let mut stream = server.connect();
    stream
        .write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .expect("request");
    String::from_utf8(rest(&mut stream)).expect("text")
}

fn url(server: &Program) -> String {
    let scheme = if server.lines[0].contains("wss://") { "https" } else { "http" };
    format!("{scheme}://{}/", server.address())
}

#[test]
fn browsers_get_the_page_at_the_root_and_nothing_elsewhere() {
    for engine in engines() {
        let server = Program::start(&["--engine", &engine]);
        for target in ["/", "/?a=b"] {
            let answer = get(&server, target);
            let (head, content) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(
                head.contains(
                    "\r\nContent-Security-Policy: default-src 'none'; script-src 'sha256-"
                ),
                "{head}"
            );
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", content.len())), "{head}");
            assert!(
                content.starts_with("<!doctype html>") && content.trim_end().ends_with("</html>")
            );
        }
        for target in ["/chat", "/index.html", "//"] {
            assert!(get(&server, target).starts_with("HTTP/1.1 426 "), "{target}");
        }
    }
}

#[test]
fn the_page_offers_the_only_path() {
    let server = Program::start(&["--path", "/chat"]);
    assert!(get(&server, "/").contains("data-path=\"/chat\""));
}

/// Returns the text of the latest event of a kind.
fn latest(tab: &mut Tab<'_>, kind: &str) -> String {
    let script = format!(
        "[...document.querySelectorAll('#log [data-kind={kind}] .what')].at(-1)?.textContent ?? ''"
    );
    tab.run(&script).as_str().expect("text").to_owned()
}

fn opened(tab: &mut Tab<'_>) {
    tab.until("document.getElementById('state')?.textContent === 'open'");
}

fn count(tab: &mut Tab<'_>, id: &str) -> u64 {
    let text = tab.run(&format!("document.getElementById('{id}').textContent"));
    text.as_str().and_then(|text| text.parse().ok()).expect("a number")
}

/// Sends a message and waits for the echo.
fn send(tab: &mut Tab<'_>, kind: &str, content: &str) {
    let before = count(tab, "echoes");
    tab.choose("kind", kind);
    tab.choose("content", content);
    tab.click("send");
    tab.until(&format!("+document.getElementById('echoes').textContent > {before}"));
}

#[test]
fn a_browser_talks_to_the_server() {
    talk(Program::start(&["--subprotocol", "chat"]));
}

/// The page comes by https and connects by wss; the browser accepts any certificate.
#[test]
fn a_browser_talks_to_the_server_over_tls() {
    talk(Program::start_with(
        &["--listen", "wss://127.0.0.1:0"],
        &["--subprotocol", "chat", "--tls-self-signed"],
    ));
}

#[test]
fn a_browser_talks_to_the_server_compressed() {
    for echo in ["passthrough", "recompress"] {
        let flags = ["--subprotocol", "chat", "--deflate", "takeover", "--deflate-echo", echo];
        let server = Program::start(&flags);
        let Some(mut browser) = Browser::start() else { return };
        let mut tab = browser.open(&url(&server));
        opened(&mut tab);
        assert_eq!(tab.run("socket.extensions"), "permessage-deflate");
        echoes_of_every_kind(&mut tab);
    }
}

fn talk(mut server: Program) {
    let Some(mut browser) = Browser::start() else { return };
    let mut tab = browser.open(&url(&server));
    opened(&mut tab);
    echoes_of_every_kind(&mut tab);
    markup_stays_text(&mut tab);
    pings_fill_the_histogram(&mut tab);
    pictures(&mut tab);
    closes_with_a_code(&mut tab);
    a_url_that_fails_says_so(&mut tab);
    agrees_on_a_subprotocol(&mut tab);
    server.signal(Signal::TERM);
    tab.until("document.getElementById('state').textContent === 'closed'");
    assert_eq!(latest(&mut tab, "close"), "1001, clean");
    server.close_stdout();
    assert_eq!(server.end().0.code(), Some(0));
}

fn echoes_of_every_kind(tab: &mut Tab<'_>) {
    for echoes_as in ["blob", "arraybuffer"] {
        tab.run(&format!("socket.binaryType = '{echoes_as}'"));
        for kind in ["text", "blob", "buffer", "uint8", "uint16", "float64", "view"] {
            for content in ["typed", "1024", "1048576"] {
                send(tab, kind, content);
            }
            let came = latest(tab, "echo");
            let as_what = match (kind, echoes_as) {
                ("text", _) => "text",
                (_, "blob") => "Blob",
                _ => "ArrayBuffer",
            };
            assert!(came.contains(as_what) && came.contains("1024 KiB"), "{came}");
        }
    }
    assert_eq!(count(tab, "different"), 0);
}

fn markup_stays_text(tab: &mut Tab<'_>) {
    let hostile = "<script>window.run = 1</script><img src=x onerror='window.run = 2'>";
    tab.fill("text", hostile);
    send(tab, "text", "typed");
    assert!(latest(tab, "echo").ends_with(hostile), "{}", latest(tab, "echo"));
    assert!(tab.run("window.run ?? null").is_null());
    assert_eq!(tab.run("document.querySelectorAll('#log script, #log img').length"), 0);
    // A script that gets into the page by another way does not run either: the policy names the
    // only one that may.
    let run = "(() => { const s = document.createElement('script'); s.textContent = 'window.run = 3'; \
               document.body.append(s); s.remove(); return window.run ?? null; })()";
    assert!(tab.run(run).is_null());
}

fn pings_fill_the_histogram(tab: &mut Tab<'_>) {
    let before = count(tab, "echoes");
    tab.fill("every", "5");
    tab.click("ping");
    tab.until(&format!("+document.getElementById('echoes').textContent >= {before} + 20"));
    tab.click("ping");
    tab.until(
        "[...document.querySelectorAll('#histogram rect')].some(bar => +bar.getAttribute('height') > 0)",
    );
    assert!(
        tab.run("document.getElementById('median').textContent")
            .as_str()
            .is_some_and(|t| t.ends_with(" ms"))
    );
    assert_eq!(count(tab, "different"), 0);
}

fn closes_with_a_code(tab: &mut Tab<'_>) {
    tab.fill("code", "4321");
    tab.fill("reason", "enough \u{1f600}");
    tab.click("close");
    tab.until("document.getElementById('state').textContent === 'closed'");
    assert_eq!(latest(tab, "close"), "4321 \u{201c}enough \u{1f600}\u{201d}, clean");
    tab.click("open");
    opened(tab);
    // A browser does not let a page send this code.
    tab.fill("code", "1002");
    tab.click("close");
    assert!(latest(tab, "error").contains("1002"), "{}", latest(tab, "error"));
    tab.fill("code", "");
    tab.click("close");
    tab.until("document.getElementById('state').textContent === 'closed'");
    assert_eq!(latest(tab, "close"), "1005, clean");
}

fn a_url_that_fails_says_so(tab: &mut Tab<'_>) {
    tab.click("fail");
    tab.until("document.querySelectorAll('#log [data-kind=close]').length >= 3");
    assert!(latest(tab, "error").contains("nobody-here"), "{}", latest(tab, "error"));
    assert_eq!(latest(tab, "close"), "1006, not clean");
}

fn agrees_on_a_subprotocol(tab: &mut Tab<'_>) {
    tab.fill("subprotocols", "mqtt chat");
    tab.click("open");
    opened(tab);
    assert!(latest(tab, "open").ends_with("subprotocol chat"), "{}", latest(tab, "open"));
}

/// Returns the outcome for a page of another site: `open` or the close code.
fn connecting_from(tab: &mut Tab<'_>, to: &Program) -> String {
    let script = format!(
        "new Promise(done => {{ const s = new WebSocket('ws://{}/'); s.onopen = () => done('open'); \
         s.onclose = event => done('close ' + event.code); }})",
        to.address()
    );
    tab.run(&script).as_str().expect("text").to_owned()
}

#[test]
fn a_page_of_another_origin_is_refused() {
    let Some(mut browser) = Browser::start() else { return };
    let (server, other) = (Program::start(&[]), Program::start(&[]));
    let listed = Program::start(&["--origin", &format!("http://{}", other.address())]);
    let mut tab = browser.open(&url(&other));
    opened(&mut tab);
    assert_eq!(connecting_from(&mut tab, &other), "open");
    assert_eq!(connecting_from(&mut tab, &server), "close 1006");
    assert_eq!(connecting_from(&mut tab, &listed), "open");
}

#[test]
fn a_browser_gets_the_close_reason() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Program::start(&["--max-message", "16KiB"]);
    let mut tab = browser.open(&url(&server));
    opened(&mut tab);
    send(&mut tab, "text", "1024");
    // This is far less than what the server reads after its Close, so that the end is a clean one.
    tab.choose("content", "65536");
    tab.click("send");
    tab.until("document.getElementById('state').textContent === 'closed'");
    assert_eq!(latest(&mut tab, "close"), "1009 \u{201c}message-too-big\u{201d}, clean");
}

/// Checks that the page fits a phone and a desktop; takes pictures of it on request.
fn pictures(tab: &mut Tab<'_>) {
    for (name, width, height, scale) in [("desk", 1280, 900, 1), ("phone", 390, 844, 2)] {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": name == "phone" });
        tab.call("Emulation.setDeviceMetricsOverride", &metrics);
        assert_eq!(tab.run("document.documentElement.scrollWidth <= innerWidth"), true, "{name}");
        for colours in ["light", "dark"] {
            let features =
                json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] });
            tab.call("Emulation.setEmulatedMedia", &features);
            let background = tab.run("getComputedStyle(document.body).backgroundColor");
            assert_eq!(background == "rgb(15, 20, 25)", colours == "dark", "{background}");
            if let Ok(folder) = std::env::var(PICTURES) {
                let png = STANDARD.decode(tab.picture()).expect("base64");
                fs::write(format!("{folder}/{name}-{colours}.png"), png).expect("a picture");
            }
        }
    }
    tab.call("Emulation.clearDeviceMetricsOverride", &json!({}));
}
