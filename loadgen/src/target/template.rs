//! Values of each connection in the URL and in fields of the opening handshake.

use std::borrow::Cow;

/// Stands for the number of the connection, over all threads and shards.
const CONNECTION: &str = "{connection}";

/// Checks that each `{name}` in `text` is a placeholder. Returns true if it has one. The error says
/// what to write instead.
pub(crate) fn has_placeholder(text: &str) -> Result<bool, String> {
    let mut found = false;
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        rest = &rest[at..];
        if let Some(escaped) = rest.strip_prefix("{{") {
            (found, rest) = (true, escaped);
            continue;
        }
        let end = rest.find('}').map_or(rest.len(), |end| end + 1);
        let name = &rest[..end];
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_:".contains(&b);
        let is_placeholder =
            name.len() > 2 && name.ends_with('}') && name[1..name.len() - 1].bytes().all(is_name);
        if name == CONNECTION {
            found = true;
        } else if is_placeholder {
            return Err(format!(
                "`{name}` is not a known placeholder: expected {CONNECTION}, or {{{name} for the text itself"
            ));
        }
        rest = &rest[1..];
    }
    Ok(found)
}

/// Returns `text` for the connection of this number.
pub(crate) fn expand(text: &str, number: u32) -> Cow<'_, str> {
    if !text.contains('{') {
        return Cow::Borrowed(text);
    }
    // A doubled brace is none of a placeholder.
    let parts = text.split("{{").map(|part| part.replace(CONNECTION, &number.to_string()));
    Cow::Owned(parts.collect::<Vec<_>>().join("{"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_the_number() {
        for (text, expanded) in [
            ("/room/{connection}?c={connection}", "/room/7?c=7"),
            ("plain", "plain"),
            ("{{connection}", "{connection}"),
            ("{{a}-{connection}", "{a}-7"),
        ] {
            assert_eq!(expand(text, 7), expanded);
        }
        assert_eq!(has_placeholder("/room/{connection}"), Ok(true));
        for text in ["plain", "{\"a\": 1}", "{}", "{", "{A}", "a}{"] {
            assert_eq!((has_placeholder(text), expand(text, 7).as_ref()), (Ok(false), text));
        }
    }

    #[test]
    fn unknown_placeholders_are_named() {
        for text in ["/{conection}", "{connection}{seq}", "{random:16}"] {
            let said = has_placeholder(text).expect_err(text);
            assert!(said.contains("is not a known placeholder: expected {connection}"), "{said}");
        }
    }
}
