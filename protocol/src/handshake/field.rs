//! Header fields: finding them by name, and the lists in them (RFC 9110 5.6).

use httparse::Header;

/// Number of occurrences of a field that may occur only once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Single<'a> {
    Missing,
    One(&'a [u8]),
    Repeated,
}

/// Returns the field lines of this name, whatever its case.
pub(super) fn values<'a>(
    fields: &'a [Header<'a>],
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value)
}

/// Returns the one field line of this name.
pub(super) fn single<'a>(fields: &'a [Header<'a>], name: &'a str) -> Single<'a> {
    let mut values = values(fields, name);
    match (values.next(), values.next()) {
        (None, _) => Single::Missing,
        (Some(value), None) => Single::One(value),
        (Some(_), Some(_)) => Single::Repeated,
    }
}

/// Returns whether a list, over however many lines it is spread, has this element, whatever its
/// case.
pub(super) fn list_has(fields: &[Header<'_>], name: &str, element: &str) -> bool {
    values(fields, name)
        .flat_map(elements)
        .any(|found| found.eq_ignore_ascii_case(element.as_bytes()))
}

/// Returns the elements of a list without quoted strings; empty ones are allowed and skipped (RFC
/// 9110 5.6.1.2).
pub(super) fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// Returns the value without the optional white space around it (RFC 9110 5.6.3).
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Returns the peer's text for display: control characters and all non-ASCII characters are
/// escaped. At most 200 characters long.
pub(super) fn quoted(value: &[u8]) -> String {
    const LONGEST: usize = 200;
    let mut shown = String::new();
    for byte in trim(value) {
        let escaped = byte.escape_ascii();
        if shown.len() + escaped.len() > LONGEST - "...".len() {
            return shown + "...";
        }
        shown.extend(escaped.map(char::from));
    }
    shown
}

/// Returns whether this is a token (RFC 9110 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether all lines of this name together are a list of at least one element; also true
/// without a line. The lines are one list (RFC 9110 5.3), so a line without an element is valid
/// beside another one.
pub(super) fn is_list(
    fields: &[Header<'_>],
    name: &str,
    count: fn(&[u8]) -> Option<usize>,
) -> bool {
    let mut counts = values(fields, name).map(count).peekable();
    counts.peek().is_none() || counts.sum::<Option<usize>>().is_some_and(|elements| elements > 0)
}

/// Returns the number of tokens in a list (Sec-WebSocket-Protocol, RFC 6455 11.3.4). `None`: it has
/// anything else.
pub(super) fn count_tokens(list: &[u8]) -> Option<usize> {
    elements(list).map(|element| is_token(element).then_some(1)).sum()
}

/// Returns the number of extensions with parameters in a list (RFC 6455 9.1): `token *( ";" token [
/// "=" ( token / quoted-string ) ] )`. `None`: it has anything else.
pub(super) fn count_extensions(list: &[u8]) -> Option<usize> {
    let mut rest = trim(list);
    let mut extensions = 0;
    while !rest.is_empty() {
        if let [b',', after @ ..] = rest {
            rest = trim(after);
            continue;
        }
        let after = after_extension(rest)?;
        extensions += 1;
        rest = match trim(after) {
            [b',', after @ ..] => trim(after),
            [] => &[],
            _ => return None,
        };
    }
    Some(extensions)
}

/// Returns the rest of a list after one extension and its parameters.
fn after_extension(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = trim(after_token(bytes)?);
    while let [b';', parameter @ ..] = rest {
        rest = trim(after_token(trim(parameter))?);
        if let [b'=', value @ ..] = rest {
            rest = trim(after_value(trim(value))?);
        }
    }
    Some(rest)
}

/// Returns the rest after a parameter's value, a token that may be quoted. A quoted value must be a
/// token once unescaped.
fn after_value(bytes: &[u8]) -> Option<&[u8]> {
    let [b'"', quoted @ ..] = bytes else { return after_token(bytes) };
    let mut rest = quoted;
    let mut len = 0;
    loop {
        rest = match rest {
            [b'"', after @ ..] => return (len > 0).then_some(after),
            [b'\\', escaped, after @ ..] if is_token_byte(*escaped) => after,
            [plain, after @ ..] if is_token_byte(*plain) => after,
            _ => return None,
        };
        len += 1;
    }
}

fn after_token(bytes: &[u8]) -> Option<&[u8]> {
    let len = bytes.iter().take_while(|&&byte| is_token_byte(byte)).count();
    (len > 0).then(|| &bytes[len..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_skip_empty_ones_and_white_space() {
        let found: Vec<_> = elements(b" , keep-alive\t,,Upgrade , ").collect();
        assert_eq!(found, [&b"keep-alive"[..], b"Upgrade"]);
    }

    #[test]
    fn lists_span_several_lines_in_any_case() {
        let fields = [
            Header { name: "Connection", value: b"keep-alive" },
            Header { name: "cOnNeCtIoN", value: b"x, UPGRADE" },
        ];
        assert!(list_has(&fields, "connection", "upgrade"));
        assert!(!list_has(&fields, "connection", "grade"));
        assert_eq!(single(&fields, "connection"), Single::Repeated);
        assert_eq!(single(&fields[..1], "connection"), Single::One(b"keep-alive"));
        assert_eq!(single(&fields, "host"), Single::Missing);
    }

    #[test]
    fn token_lists_are_counted() {
        for list in [&b"chat"[..], b"chat, superchat", b", chat ,", b"v1.chat.example"] {
            assert!(count_tokens(list).is_some_and(|n| n > 0), "{}", list.escape_ascii());
        }
        for list in [&b""[..], b" ", b",", b"two words", b"chat;x", b"a/b", b"\"chat\"", b"\xff"] {
            assert!(count_tokens(list).is_none_or(|n| n == 0), "{}", list.escape_ascii());
        }
    }

    #[test]
    fn lines_of_a_list_are_one_list() {
        let field = |value| Header { name: "List", value };
        for lines in [&[&b"a"[..], b""][..], &[b",", b"a, b"], &[b"a"], &[]] {
            let fields: Vec<_> = lines.iter().map(|line| field(line)).collect();
            assert!(is_list(&fields, "list", count_tokens), "{lines:?}");
            assert!(is_list(&fields, "list", count_extensions), "{lines:?}");
        }
        for lines in [&[&b""[..]][..], &[b",", b" "], &[b"a", b"(b)"], &[b"a", b"", b"b c"]] {
            let fields: Vec<_> = lines.iter().map(|line| field(line)).collect();
            assert!(!is_list(&fields, "list", count_tokens), "{lines:?}");
            assert!(!is_list(&fields, "list", count_extensions), "{lines:?}");
        }
    }

    #[test]
    fn extension_lists_are_counted() {
        let good: [&[u8]; 8] = [
            b"permessage-deflate",
            b"permessage-deflate; client_max_window_bits",
            b"permessage-deflate; server_max_window_bits=10; client_no_context_takeover",
            b"permessage-deflate;server_max_window_bits=\"10\", x-unknown",
            b"a ; b = c , d",
            b"a; b=\"\\c\"",
            b",a",
            b"a,,b,",
        ];
        for list in good {
            assert!(count_extensions(list).is_some_and(|n| n > 0), "{}", list.escape_ascii());
        }
        let bad: [&[u8]; 13] = [
            b"",
            b",",
            b";",
            b"a;",
            b"a;;b",
            b"a; b=",
            b"a; =c",
            b"a b",
            b"a; b=\"\"",
            b"a; b=\"c",
            b"a; b=\"c d\"",
            b"a; b=c=d",
            b"a; b=\"c\\",
        ];
        for list in bad {
            assert!(count_extensions(list).is_none_or(|n| n == 0), "{}", list.escape_ascii());
        }
    }
}
