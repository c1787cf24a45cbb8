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
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let mut bytes = trim_start(bytes);
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
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

/// Returns the number of extensions in a list. `None`: it has anything else.
pub(super) fn count_extensions(list: &[u8]) -> Option<usize> {
    extensions(list).map(|extension| extension.is_ok().then_some(1)).sum()
}

/// Text that is not in the form that its field requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// One extension of a list, with its parameters: `token *( ";" token [ "=" ( token / quoted-string
/// ) ] )` (RFC 6455 9.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Extension<'a> {
    /// Name, in the case in which it was sent.
    pub(super) name: &'a [u8],
    /// Name and parameters as they were sent.
    pub(super) text: &'a [u8],
    parameters: Parameters<'a>,
}

impl<'a> Extension<'a> {
    /// Returns the parameters in their order; they have been checked with the extension.
    pub(super) fn parameters(&self) -> impl Iterator<Item = Parameter<'a>> {
        self.parameters.map_while(Result::ok)
    }
}

/// One parameter of an extension.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter<'a> {
    /// Name, in the case in which it was sent.
    pub(super) name: &'a [u8],
    pub(super) value: Option<Value<'a>>,
}

/// Value of a parameter: a token, which may have been quoted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    /// The token, or the text between the quotation marks.
    text: &'a [u8],
}

impl<'a> Value<'a> {
    /// Returns the token. A backslash is no part of a token, so every one of them is an escape.
    pub(super) fn token(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.text.iter().copied().filter(|&byte| byte != b'\\')
    }
}

/// Returns the extensions of a list; empty elements are allowed and skipped (RFC 9110 5.6.1.2).
/// The first malformed one is the last item.
pub(super) fn extensions(list: &[u8]) -> impl Iterator<Item = Result<Extension<'_>, Malformed>> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let skipped = rest.iter().take_while(|&&byte| b" \t,".contains(&byte)).count();
        let list = &std::mem::take(&mut rest)[skipped..];
        if list.is_empty() {
            return None;
        }
        let Some((extension, after)) = split_extension(list) else { return Some(Err(Malformed)) };
        rest = after;
        Some(Ok(extension))
    })
}

/// Splits the first extension off a list.
fn split_extension(list: &[u8]) -> Option<(Extension<'_>, &[u8])> {
    let (name, after_name) = split_token(list)?;
    let parameters = Parameters { rest: after_name };
    let mut unread = parameters;
    unread.try_for_each(|parameter| parameter.map(drop)).ok()?;
    let rest = trim_start(unread.rest);
    let text = trim(&list[..list.len() - rest.len()]);
    matches!(rest, [] | [b',', ..]).then_some((Extension { name, text, parameters }, rest))
}

/// Iterator over parameters; it stops before anything that does not begin with a semicolon.
#[derive(Clone, Copy, Debug)]
struct Parameters<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<Parameter<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let [b';', parameter @ ..] = trim_start(self.rest) else { return None };
        let split = split_parameter(trim_start(parameter));
        self.rest = split.map(|(_, rest)| rest).unwrap_or_default();
        Some(split.map(|(parameter, _)| parameter).ok_or(Malformed))
    }
}

fn split_parameter(text: &[u8]) -> Option<(Parameter<'_>, &[u8])> {
    let (name, rest) = split_token(text)?;
    let [b'=', value @ ..] = trim_start(rest) else {
        return Some((Parameter { name, value: None }, rest));
    };
    let (value, rest) = split_value(trim_start(value))?;
    Some((Parameter { name, value: Some(value) }, rest))
}

/// Splits a parameter's value off. A quoted one must be a token once unescaped.
fn split_value(text: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let [b'"', quoted @ ..] = text else {
        return split_token(text).map(|(text, rest)| (Value { text }, rest));
    };
    let mut rest = quoted;
    loop {
        rest = match rest {
            [b'"', after @ ..] => {
                let text = &quoted[..quoted.len() - rest.len()];
                return (!text.is_empty()).then_some((Value { text }, after));
            }
            [b'\\', escaped, after @ ..] if is_token_byte(*escaped) => after,
            [plain, after @ ..] if is_token_byte(*plain) => after,
            _ => return None,
        };
    }
}

fn split_token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = text.iter().take_while(|&&byte| is_token_byte(byte)).count();
    (len > 0).then(|| text.split_at(len))
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

    /// Returns the extensions of a list in a plain form: names, and parameters with their values.
    fn read(list: &[u8]) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let plain = |extension: Extension<'_>| {
            let parameters = extension.parameters().map(|parameter| {
                let value = parameter.value.map(|value| text(&value.token().collect::<Vec<_>>()));
                format!(";{}{}", text(parameter.name), value.map_or("".into(), |v| format!("={v}")))
            });
            std::iter::once(text(extension.name)).chain(parameters).collect()
        };
        extensions(list).map(|extension| extension.map_or("malformed".into(), plain)).collect()
    }

    #[test]
    fn extensions_have_names_and_parameters_with_values() {
        assert_eq!(read(b"a"), ["a"]);
        assert_eq!(read(b"\ta ;b\t= c ;\td , ,e;f=\"g\" ,"), ["a;b=c;d", "e;f=g"]);
        assert_eq!(read(b"A; b=\"\\1\\0\"; b"), ["A;b=10;b"], "neither case nor repeats matter");
        assert_eq!(read(b",\t ,"), [""; 0]);
    }

    #[test]
    fn extensions_end_with_the_first_malformed_one() {
        assert_eq!(read(b"a;b, c d, e"), ["a;b", "malformed"]);
        assert_eq!(read(b"a, ;b, c"), ["a", "malformed"]);
        assert_eq!(read(b"a;b=\"c,d\", e"), ["malformed"]);
    }

    #[test]
    fn extension_keeps_its_text() {
        let list = b" a ; b = \"c\" ,d;e=f\t";
        let found: Vec<_> = extensions(list).map(|extension| extension.unwrap().text).collect();
        assert_eq!(found, [&b"a ; b = \"c\""[..], b"d;e=f"]);
    }
}
