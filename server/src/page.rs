//! The page that browsers get at `/`: a console that opens a WebSocket to this server.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::Output;
use sha2::{Digest, Sha256};

/// Self-contained: its style and its script stand in it.
const DOCUMENT: &str = include_str!("page.html");

/// Placeholder in the document for the path of the WebSocket.
const PATH: &str = "{path}";

/// The answer to a browser that asks for the page.
#[derive(Debug)]
pub(crate) struct Page {
    /// Fields after the time.
    fields: String,
    document: String,
}

impl Page {
    /// A page whose console offers the WebSocket at `path`.
    pub(crate) fn new(path: Option<&str>) -> Self {
        let document = DOCUMENT.replacen(PATH, &escaped(path.unwrap_or("/")), 1);
        let fields = format!(
            "Connection: close\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
             Content-Security-Policy: {}\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
             Cache-Control: no-store\r\n\r\n",
            document.len(),
            policy(),
        );
        Self { fields, document }
    }

    /// Writes the head with the time `now`, and the content where `with_content` is true.
    ///
    /// The time lets a client compare its clock with this one: X-HTTPSTIME is the field that P.-H.
    /// Kamp proposed for that, seconds since 1970 with decimals.
    pub(crate) fn write(&self, with_content: bool, now: SystemTime, out: &mut Output<'_>) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = (now.as_secs(), now.subsec_nanos());
        let start = format!("HTTP/1.1 200 OK\r\nX-HTTPSTIME: {seconds}.{nanos:09}\r\n");
        out.append(start.as_bytes());
        out.append(self.fields.as_bytes());
        if with_content {
            out.append(self.document.as_bytes());
        }
    }
}

/// Nothing but this very script and style, and WebSockets to wherever the user wants (Content
/// Security Policy Level 3).
fn policy() -> String {
    let hash = |tag| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inside(tag))));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src ws: wss:; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    )
}

/// Content of the document's one element of this name.
fn inside(tag: &str) -> &'static str {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let content = DOCUMENT.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    content
        .map(|(content, _)| content)
        .expect("the document has one such element without attributes")
}

/// For the value of an attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::{Nanos, Record};

    use super::*;

    fn response(path: Option<&str>) -> String {
        let (mut record, now) = (Record::new(), UNIX_EPOCH + Duration::new(5, 7));
        Page::new(path).write(true, now, &mut record.begin(Nanos(0), 0, 0));
        let bytes: Vec<u8> =
            record.segments().iter().flat_map(|part| record.bytes(part, &[]).to_vec()).collect();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn the_policy_fits_what_is_in_the_page() {
        let response = response(None);
        let (head, document) = response.split_once("\r\n\r\n").expect("head and content");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", document.len())), "{head}");
        assert!(!head.contains("unsafe-inline"), "{head}");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nX-HTTPSTIME: 5.000000007\r\n"), "{head}");
        for tag in ["script", "style"] {
            assert_eq!(
                document.matches(&format!("<{tag}")).count(),
                1,
                "one {tag}, which the policy names"
            );
            assert!(document.contains(inside(tag)));
        }
        // No other way for script or style to get in, and none for text to become markup.
        for absent in [
            " style=",
            " onclick=",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!document.contains(absent), "{absent}");
        }
    }

    #[test]
    fn the_path_stands_in_the_page_and_stays_text() {
        assert!(response(Some("/chat")).contains("\"/chat\""));
        let hostile = response(Some("/\"><b>&"));
        assert!(hostile.contains("\"/&quot;>&lt;b>&amp;\""));
        assert!(!hostile.contains(PATH));
    }
}
