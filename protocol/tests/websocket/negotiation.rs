//! Negotiation of permessage-deflate: offers of real clients, and every rule of RFC 7692 7.1.

use proptest::prelude::*;
use protocol::handshake::HeadLimits;
use protocol::handshake::client::{Request, ResponseError, check_response};
use protocol::handshake::deflate::{AnswerError, Offer, Parameters, ServerPolicy};
use protocol::handshake::server::{Accepted, answer};

use crate::handshake::{NONCE, SWITCH, accepts, head, with};

const FREE: ServerPolicy = ServerPolicy { takeover: true, max_window_bits: 15 };
const FRUGAL: ServerPolicy = ServerPolicy { takeover: false, max_window_bits: 12 };

const NO_TAKEOVER: [&str; 2] = ["server_no_context_takeover", "client_no_context_takeover"];
const WINDOWS: [&str; 2] = ["server_max_window_bits", "client_max_window_bits"];

/// Returns the lines of this field in a head.
fn extensions(head: &[u8]) -> Vec<&str> {
    let lines = std::str::from_utf8(head).unwrap().split("\r\n");
    lines.filter_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")).collect()
}

/// Returns the request with these field lines as the server accepts it.
fn request(lines: &[&str]) -> Accepted {
    let fields: Vec<_> =
        lines.iter().map(|line| format!("Sec-WebSocket-Extensions: {line}")).collect();
    accepts(&with(&fields.iter().map(String::as_str).collect::<Vec<_>>()))
}

/// Returns the server's answer to these field lines, and the parameters.
fn answered(lines: &[&str], policy: &ServerPolicy) -> Option<(String, Parameters)> {
    let mut accepted = request(lines);
    let parameters = accepted.accept_deflate(policy);
    let answers = extensions(accepted.response());
    assert_eq!(answers.len(), usize::from(parameters.is_some()), "{lines:?}");
    parameters.map(|parameters| (answers[0].to_owned(), parameters))
}

fn answer_to(offer: &str, policy: &ServerPolicy) -> Option<String> {
    answered(&[offer], policy).map(|(answer, _)| answer)
}

/// Returns the result of the client that made `offer` for an answer with these field lines.
fn check(offer: &Offer, lines: &[&str]) -> Result<Option<Parameters>, ResponseError> {
    let fields: Vec<_> =
        lines.iter().map(|line| format!("Sec-WebSocket-Extensions: {line}")).collect();
    let lines: Vec<_> = SWITCH.into_iter().chain(fields.iter().map(String::as_str)).collect();
    check_response(&head(&lines), &NONCE, &[], Some(offer))
}

/// Returns the reason why the client that made `offer` rejects the answer.
fn fault(offer: &Offer, answer: &str) -> AnswerError {
    match check(offer, &[answer]) {
        Err(ResponseError::Deflate(error)) => error,
        other => panic!("{other:?} for {answer}"),
    }
}

#[test]
fn answers_offers_of_real_clients() {
    let frugal = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                  server_max_window_bits=12";
    let frugal_client = format!("{frugal}; client_max_window_bits=12");
    let both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let python = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12";
    for (client, offer, free, other) in [
        ("Firefox", "permessage-deflate", "permessage-deflate", frugal),
        (
            "Chromium, Safari, npm ws, undici",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate",
            &frugal_client,
        ),
        ("Python websockets", python, python, &frugal_client),
        ("gorilla/websocket", both, both, frugal),
        (
            "libwebsockets, Qt",
            "permessage-deflate; client_no_context_takeover; client_max_window_bits",
            "permessage-deflate; client_no_context_takeover",
            &frugal_client,
        ),
        (
            "Autobahn 13.7",
            "permessage-deflate; client_no_context_takeover; client_max_window_bits; \
             server_no_context_takeover; server_max_window_bits=9, permessage-deflate; \
             client_no_context_takeover; client_max_window_bits; server_no_context_takeover, \
             permessage-deflate; client_no_context_takeover; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=9; client_max_window_bits=9",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=9; client_max_window_bits=9",
        ),
    ] {
        assert_eq!(answer_to(offer, &FREE).as_deref(), Some(free), "{client}");
        assert_eq!(answer_to(offer, &FRUGAL).as_deref(), Some(other), "{client}");
    }
}

#[test]
fn declines_other_extensions() {
    assert_eq!(answered(&[], &FREE), None, "curl offers nothing");
    for offer in [
        "x-webkit-deflate-frame",
        "deflate-frame; no_context_takeover",
        "permessage-bzip2",
        "permessage-deflate2",
        "permessage",
        "x; permessage-deflate",
    ] {
        assert_eq!(answer_to(offer, &FREE), None, "{offer}");
    }
    let after_others = "x-webkit-deflate-frame, permessage-bzip2; y=1, permessage-deflate";
    assert_eq!(answer_to(after_others, &FREE).as_deref(), Some("permessage-deflate"));
}

/// Returns an offer or answer with one fault in its parameters for every kind of fault, and the
/// rule that it breaks.
fn faulty_parameters() -> Vec<(String, &'static str)> {
    let mut faulty = Vec::new();
    let mut add = |parameters: String, rule| {
        faulty.push((format!("permessage-deflate; {parameters}"), rule));
    };
    for name in ["x", "server_max_window_bit", "no_context_takeover", "permessage-deflate"] {
        add(name.into(), "deflate-unknown-parameter");
        add(format!("{name}=10"), "deflate-unknown-parameter");
        add(format!("client_no_context_takeover; {name}"), "deflate-unknown-parameter");
    }
    for name in NO_TAKEOVER.into_iter().chain(WINDOWS) {
        for other in [name.to_uppercase(), name.replacen(&name[..1], &name[..1].to_uppercase(), 1)]
        {
            add(format!("{other}=10"), "deflate-unknown-parameter");
            add(other, "deflate-unknown-parameter");
        }
    }
    for name in NO_TAKEOVER {
        add(format!("{name}; {name}"), "deflate-repeated-parameter");
        for value in ["1", "15", "true", "\"true\""] {
            add(format!("{name}={value}"), "deflate-unexpected-value");
        }
    }
    for name in WINDOWS {
        for other in ["10", "11"] {
            let twice = format!("{name}=10; {}; {name}={other}", NO_TAKEOVER[0]);
            add(twice, "deflate-repeated-parameter");
        }
        let numbers = (0..300).filter(|bits| !(8..=15).contains(bits)).map(|bits| bits.to_string());
        let zeros = (8..=15).flat_map(|bits| [format!("0{bits}"), format!("00{bits}")]);
        let words = ["+9", "-9", "9.", "1.0", "1e1", "0x9", "1_0", "ten", "100000000000000000010"];
        for value in numbers.chain(zeros).chain(words.map(String::from)) {
            add(format!("{name}={value}"), "deflate-invalid-value");
            add(format!("{name}=\"{value}\""), "deflate-invalid-value");
        }
    }
    add(format!("{}; {}=10", WINDOWS[1], WINDOWS[1]), "deflate-repeated-parameter");
    add(WINDOWS[0].into(), "deflate-missing-value");
    faulty
}

#[test]
fn declines_offers_with_invalid_parameters() {
    for (offer, _) in faulty_parameters() {
        assert_eq!(answer_to(&offer, &FREE), None, "{offer}");
        // A later offer may be valid, on the same line or on another one.
        let next = "permessage-deflate; server_max_window_bits=11";
        assert_eq!(answer_to(&format!("{offer}, {next}"), &FREE).as_deref(), Some(next), "{offer}");
        let (answer, _) = answered(&[&offer, next], &FREE).unwrap();
        assert_eq!(answer, next, "{offer}");
    }
    assert_eq!(answer_to("Permessage-Deflate", &FREE), None, "names are compared exactly");
}

#[test]
fn accepts_the_first_valid_offer() {
    let offers = [
        "permessage-deflate; server_max_window_bits=10",
        "permessage-deflate; server_max_window_bits=11",
        "permessage-deflate",
    ];
    for (first, second) in [(0, 1), (1, 0), (2, 0), (0, 2)] {
        let (first, second) = (offers[first], offers[second]);
        assert_eq!(answer_to(&format!("{first}, {second}"), &FREE).as_deref(), Some(first));
        assert_eq!(answered(&[first, second], &FREE).unwrap().0, first);
    }
}

#[test]
fn reads_quotes_white_space_and_empty_elements() {
    let expected = "permessage-deflate; server_no_context_takeover; server_max_window_bits=10; \
                    client_max_window_bits=9";
    for lines in [
        &[expected][..],
        &["permessage-deflate;server_no_context_takeover;server_max_window_bits=10;\
           client_max_window_bits=9"],
        &["permessage-deflate; client_max_window_bits=\"9\"; server_max_window_bits=\"10\"; \
           server_no_context_takeover"],
        &["\tpermessage-deflate\t; server_no_context_takeover ;\
           client_max_window_bits = \"\\9\" ;\tserver_max_window_bits\t=\t\"1\\0\"\t"],
        &[",, permessage-deflate;server_no_context_takeover;server_max_window_bits=10;\
           client_max_window_bits=9 ,, "],
        &["", "x, ", expected, ","],
    ] {
        assert_eq!(answered(lines, &FREE).unwrap().0, expected, "{lines:?}");
    }
}

#[test]
fn answer_keeps_other_fields_and_is_given_once() {
    let mut accepted = accepts(&with(&[
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9",
    ]));
    let declined = accepted.response().to_vec();
    assert!(accepted.clone().accept_deflate(&FREE).is_some());
    assert_eq!(accepted.response(), declined, "nothing is accepted unasked");
    assert_eq!(accepted.select_subprotocol(|name| name == "chat"), Some("chat"));
    assert!(accepted.accept_deflate(&FREE).is_some());
    assert_eq!(accepted.accept_deflate(&FREE), None);
    let added = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate; \
                 server_max_window_bits=9\r\n\r\n";
    let expected = [&declined[..declined.len() - 2], added.as_bytes()].concat();
    assert_eq!(accepted.response(), expected, "{}", accepted.response().escape_ascii());
}

/// Every window that an offer can state for one end; `None`: it states nothing.
fn windows() -> impl Iterator<Item = Option<u8>> + Clone {
    std::iter::once(None).chain((8..=15).map(Some))
}

fn stated(name: &str, bits: Option<u8>) -> String {
    bits.map(|bits| format!("; {name}={bits}")).unwrap_or_default()
}

#[test]
fn server_window_is_the_smaller_of_offer_and_policy() {
    for (offered, max_window_bits) in
        windows().flat_map(|offered| (9..=15).map(move |max| (offered, max)))
    {
        let policy = ServerPolicy { takeover: true, max_window_bits };
        let offer = format!("permessage-deflate{}", stated(WINDOWS[0], offered));
        let bits = offered.unwrap_or(15).min(max_window_bits);
        let named = offered.is_some() || bits < 15;
        let expected =
            format!("permessage-deflate{}", stated(WINDOWS[0], Some(bits).filter(|_| named)));
        if offered == Some(8) {
            assert_eq!(answered(&[&offer], &policy), None, "no compressor has such a window");
            continue;
        }
        let (answer, parameters) = answered(&[&offer], &policy).unwrap();
        assert_eq!(answer, expected, "{offer} with {policy:?}");
        let agreed = (parameters.server_max_window_bits, parameters.client_max_window_bits);
        assert_eq!(agreed, (bits, 15), "a client that does not offer it is not limited");
    }
}

#[test]
fn client_window_fits_offer_policy_and_server_window() {
    let combinations = windows()
        .filter(|server| *server != Some(8))
        .flat_map(|server| windows().map(move |client| (server, client)))
        .flat_map(|(server, client)| (9..=15).map(move |max| (server, client, max)));
    for (server, client, max_window_bits) in combinations {
        let policy = ServerPolicy { takeover: true, max_window_bits };
        let offer = format!(
            "permessage-deflate{}; client_max_window_bits{}",
            stated(WINDOWS[0], server),
            client.map(|bits| format!("={bits}")).unwrap_or_default(),
        );
        let (answer, parameters) = answered(&[&offer], &policy).unwrap();
        let bits = client.unwrap_or(15).min(server.unwrap_or(15)).min(max_window_bits);
        assert_eq!(parameters.client_max_window_bits, bits, "{offer} with {policy:?}");
        let named = answer.contains(&format!("; client_max_window_bits={bits}"));
        assert_eq!(named, bits < 15, "{answer}");
        assert_eq!(answer.contains(WINDOWS[1]), bits < 15, "{answer}");
    }
}

#[test]
fn policy_bits_beyond_the_range_count_as_the_nearest() {
    let offer = "permessage-deflate; client_max_window_bits";
    for (bits, nearest) in [(0, 9), (8, 9), (16, 15), (u8::MAX, 15)] {
        let with = |max_window_bits| ServerPolicy { takeover: true, max_window_bits };
        assert_eq!(answered(&[offer], &with(bits)), answered(&[offer], &with(nearest)));
    }
}

#[test]
fn takeover_is_forbidden_by_offer_or_policy() {
    for (server, client, takeover) in
        (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0))
    {
        let named = |server: bool, client: bool| {
            let name =
                |is_named: bool, name| if is_named { format!("; {name}") } else { "".into() };
            let (server, client) = (name(server, NO_TAKEOVER[0]), name(client, NO_TAKEOVER[1]));
            format!("permessage-deflate{server}{client}")
        };
        let policy = ServerPolicy { takeover, ..FREE };
        let (answer, parameters) = answered(&[&named(server, client)], &policy).unwrap();
        assert_eq!(answer, named(server || !takeover, client || !takeover));
        assert_eq!(parameters.server_no_context_takeover, server || !takeover);
        assert_eq!(parameters.client_no_context_takeover, client || !takeover);
    }
}

#[test]
fn client_writes_its_offer() {
    for (offer, expected) in [
        (Offer::default(), "permessage-deflate; client_max_window_bits"),
        (
            Offer {
                server_no_context_takeover: true,
                client_no_context_takeover: true,
                server_max_window_bits: Some(8),
                client_max_window_bits: Some(15),
            },
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=8; client_max_window_bits=15",
        ),
    ] {
        assert_eq!(offer.encode(), expected);
        assert_eq!(extensions(&encoded(Some(offer))), [expected]);
    }
    assert_eq!(extensions(&encoded(None)), [""; 0]);
}

fn encoded(deflate: Option<Offer>) -> Vec<u8> {
    let request = Request {
        host: "h",
        target: "/",
        nonce: NONCE,
        origin: None,
        subprotocols: &[],
        deflate,
        headers: &[],
    };
    request.check().unwrap();
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

#[test]
fn client_without_an_answer_has_no_parameters() {
    for lines in [&[][..], &[""], &[",", " , "]] {
        assert_eq!(check(&Offer::default(), lines), Ok(None));
    }
}

#[test]
fn client_rejects_invalid_parameters() {
    for (answer, rule) in faulty_parameters() {
        let error = fault(&Offer::default(), &answer);
        assert_eq!(error.rule(), rule, "{answer}");
        assert_eq!(ResponseError::Deflate(error.clone()).rule(), rule);
    }
    let error = fault(&Offer::default(), "permessage-deflate; client_max_window_bits");
    assert_eq!(error, AnswerError::MissingValue { parameter: "client_max_window_bits" });
}

#[test]
fn client_accepts_no_window_above_its_offer() {
    for (offered, answered) in
        windows().flat_map(|offered| (8..=15).map(move |bits| (offered, bits)))
    {
        let is_above = offered.is_some_and(|offered| answered > offered);
        let server = Offer { server_max_window_bits: offered, ..Offer::default() };
        let client = Offer { client_max_window_bits: offered, ..Offer::default() };
        for (offer, parameter) in [(server, WINDOWS[0]), (client, WINDOWS[1])] {
            let answer = format!("permessage-deflate; {parameter}={answered}");
            if is_above {
                let offered = offered.unwrap();
                let expected = AnswerError::AboveOffer { parameter, answered, offered };
                assert_eq!(fault(&offer, &answer), expected);
                continue;
            }
            let agreed = check(&offer, &[&answer]).unwrap().unwrap();
            let bits = [agreed.server_max_window_bits, agreed.client_max_window_bits];
            let expected = if parameter == WINDOWS[0] { [answered, 15] } else { [15, answered] };
            assert_eq!(bits, expected, "{answer}");
        }
    }
}

#[test]
fn client_requires_what_it_demands_of_the_server() {
    for bits in 8..=15 {
        let offer = Offer { server_max_window_bits: Some(bits), ..Offer::default() };
        let expected = AnswerError::IgnoredDemand { parameter: WINDOWS[0] };
        assert_eq!(fault(&offer, "permessage-deflate"), expected);
    }
    let offer = Offer { server_no_context_takeover: true, ..Offer::default() };
    for answer in ["permessage-deflate", "permessage-deflate; client_no_context_takeover"] {
        let expected = AnswerError::IgnoredDemand { parameter: NO_TAKEOVER[0] };
        assert_eq!(fault(&offer, answer), expected);
    }
    let answer = "permessage-deflate; server_no_context_takeover";
    assert!(check(&offer, &[answer]).unwrap().unwrap().server_no_context_takeover);
}

#[test]
fn client_keeps_promises_that_the_answer_does_not_repeat() {
    for bits in 8..=15 {
        let offer = Offer {
            client_no_context_takeover: true,
            client_max_window_bits: Some(bits),
            ..Offer::default()
        };
        let agreed = Parameters {
            server_no_context_takeover: false,
            client_no_context_takeover: true,
            server_max_window_bits: 15,
            client_max_window_bits: bits,
        };
        assert_eq!(check(&offer, &["permessage-deflate"]), Ok(Some(agreed)));
    }
}

#[test]
fn client_accepts_what_the_server_adds_unasked() {
    let answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                  server_max_window_bits=\"8\" ;client_max_window_bits = \"1\\0\"";
    let agreed = Parameters {
        server_no_context_takeover: true,
        client_no_context_takeover: true,
        server_max_window_bits: 8,
        client_max_window_bits: 10,
    };
    assert_eq!(check(&Offer::default(), &[answer]), Ok(Some(agreed)));
}

#[test]
fn client_accepts_one_extension_at_most() {
    let deflate = "permessage-deflate";
    for lines in [&[deflate, deflate][..], &["permessage-deflate, permessage-deflate"]] {
        assert_eq!(check(&Offer::default(), lines), Err(ResponseError::RepeatedExtension));
    }
    for other in ["x-webkit-deflate-frame", "Permessage-Deflate", "x; y=\"1\""] {
        let expected = Err(ResponseError::UnofferedExtension { name: other.replace('"', "\\\"") });
        assert_eq!(check(&Offer::default(), &[other]), expected);
        assert_eq!(check(&Offer::default(), &[deflate, other]), expected);
        assert_eq!(check(&Offer::default(), &[&format!("{deflate} , {other}\t,")]), expected);
    }
    for malformed in ["permessage-deflate;", "a b", "permessage-deflate; client_max_window_bits="] {
        let expected = Err(ResponseError::MalformedExtensions { value: malformed.into() });
        assert_eq!(check(&Offer::default(), &[malformed]), expected);
    }
}

#[test]
fn client_names_parameter_and_rule() {
    let offer = Offer { server_max_window_bits: Some(10), ..Offer::default() };
    for (answer, text) in [
        ("; x=1", "has an unknown parameter: \"x\""),
        (
            "; server_max_window_bits=9; server_max_window_bits=9",
            "has \"server_max_window_bits\" more than once",
        ),
        (
            "; client_no_context_takeover=no",
            "has \"client_no_context_takeover=no\": expected no value",
        ),
        (
            "; server_max_window_bits",
            "has \"server_max_window_bits\" without a value: expected 8 to 15",
        ),
        (
            "; client_max_window_bits=08",
            "has \"client_max_window_bits=08\": expected 8 to 15, without leading zeros",
        ),
        (
            "; server_max_window_bits=11",
            "has \"server_max_window_bits=11\": expected at most the offered 10",
        ),
        ("", "lacks \"server_max_window_bits\", which the offer demands"),
    ] {
        let error = fault(&offer, &format!("permessage-deflate{answer}"));
        assert_eq!(error.to_string(), format!("the server's permessage-deflate {text}"));
    }
}

#[test]
fn client_bounds_what_it_quotes() {
    let long = "a".repeat(3000);
    for answer in [
        format!("permessage-deflate; {long}"),
        format!("permessage-deflate; client_no_context_takeover={long}"),
        format!("permessage-deflate; client_max_window_bits=\"{long}\""),
        format!("permessage-deflate; {long} {long}"),
        format!("permessage-deflate, {long}"),
        "\u{9b}".repeat(3000),
    ] {
        let said = check(&Offer::default(), &[&answer]).unwrap_err().to_string();
        assert!(said.len() < 350 && said.contains("...") && said.is_ascii(), "{said}");
    }
}

fn any_offer() -> impl Strategy<Value = Offer> {
    let window = || prop::option::of(8..=15_u8);
    (any::<bool>(), any::<bool>(), window(), window()).prop_map(|(server, client, ours, theirs)| {
        Offer {
            server_no_context_takeover: server,
            client_no_context_takeover: client,
            server_max_window_bits: theirs,
            client_max_window_bits: ours,
        }
    })
}

fn any_policy() -> impl Strategy<Value = ServerPolicy> {
    (any::<bool>(), any::<u8>())
        .prop_map(|(takeover, max_window_bits)| ServerPolicy { takeover, max_window_bits })
}

proptest! {
    #[test]
    fn client_and_server_agree(offer in any_offer(), policy in any_policy()) {
        let mut accepted = accepts(&encoded(Some(offer)));
        let parameters = accepted.accept_deflate(&policy);
        prop_assert_eq!(parameters.is_none(), offer.server_max_window_bits == Some(8));
        let checked = check_response(accepted.response(), &NONCE, &[], Some(&offer));
        prop_assert_eq!(checked, Ok(parameters));
    }

    #[test]
    fn any_bytes_are_negotiated_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "permessage-deflate", "server_no_context_takeover", "client_no_context_takeover",
                "server_max_window_bits", "client_max_window_bits", "8", "15", "016", "\"", "\\",
                ";", ";", ";", ",", "=", "=", " ", "x",
            ]),
            0..20,
        ),
        offer in any_offer(),
        policy in any_policy(),
    ) {
        for line in [&bytes[..], parts.concat().as_bytes()] {
            let name = &b"Sec-WebSocket-Extensions: permessage-deflate;"[..];
            let field = [name, line, b"\r\n\r\n"].concat();
            let with_field = |head: Vec<u8>| [&head[..head.len() - 2], &field].concat();
            if let Ok(mut accepted) = answer(&with_field(with(&[])), &HeadLimits::default()) {
                let parameters = accepted.accept_deflate(&policy);
                prop_assert_eq!(extensions(accepted.response()).len(), parameters.iter().count());
            }
            let response = with_field(head(&SWITCH));
            if let Ok(Some(agreed)) = check_response(&response, &NONCE, &[], Some(&offer)) {
                for (agreed, offered) in [
                    (agreed.server_max_window_bits, offer.server_max_window_bits),
                    (agreed.client_max_window_bits, offer.client_max_window_bits),
                ] {
                    prop_assert!((8..=offered.unwrap_or(15)).contains(&agreed));
                }
            }
        }
    }
}
