//! Masking and validation of a text's payload in other libraries.

/// Masking of tokio-websockets, which changes the key that it is given.
#[allow(clippy::all, clippy::pedantic, unused, unsafe_op_in_unsafe_fn)]
mod tokio_websockets_mask {
    include!(concat!(env!("OUT_DIR"), "/tokio_websockets_mask.rs"));
}

/// Masks with tokio-websockets.
#[inline]
pub fn tokio_websockets(payload: &mut [u8], mut key: [u8; 4]) {
    tokio_websockets_mask::frame(&mut key, payload);
}

/// Masks with tokio-websockets and validates with simdutf8, its default.
#[inline]
pub fn tokio_websockets_text(payload: &mut [u8], key: [u8; 4]) {
    tokio_websockets(payload, key);
    assert!(simdutf8::basic::from_utf8(payload).is_ok());
}

/// Masks with fastwebsockets.
#[inline]
pub fn fastwebsockets(payload: &mut [u8], key: [u8; 4]) {
    fastwebsockets::unmask(payload, key);
}

/// Masks with fastwebsockets and validates with the standard library, as it does.
#[inline]
pub fn fastwebsockets_text(payload: &mut [u8], key: [u8; 4]) {
    fastwebsockets(payload, key);
    assert!(std::str::from_utf8(payload).is_ok());
}

/// Masks with sockudo-ws.
#[inline]
pub fn sockudo_ws(payload: &mut [u8], key: [u8; 4]) {
    sockudo_ws::simd::apply_mask(payload, key);
}

/// Masks with sockudo-ws and validates with simdutf8, as it does.
#[inline]
pub fn sockudo_ws_text(payload: &mut [u8], key: [u8; 4]) {
    sockudo_ws(payload, key);
    assert!(sockudo_ws::utf8::validate_utf8(payload));
}
