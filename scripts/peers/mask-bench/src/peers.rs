//! What other libraries do with a text's payload: mask it, then validate it.

/// tokio-websockets' masking, which changes the key it is given.
#[allow(clippy::all, clippy::pedantic, unused, unsafe_op_in_unsafe_fn)]
mod tokio_websockets_mask {
    include!(concat!(env!("OUT_DIR"), "/tokio_websockets_mask.rs"));
}

/// Masked by tokio-websockets.
#[inline]
pub fn tokio_websockets(payload: &mut [u8], mut key: [u8; 4]) {
    tokio_websockets_mask::frame(&mut key, payload);
}

/// tokio-websockets validates with simdutf8, its default.
#[inline]
pub fn tokio_websockets_text(payload: &mut [u8], key: [u8; 4]) {
    tokio_websockets(payload, key);
    assert!(simdutf8::basic::from_utf8(payload).is_ok());
}

/// Masked by fastwebsockets.
#[inline]
pub fn fastwebsockets(payload: &mut [u8], key: [u8; 4]) {
    fastwebsockets::unmask(payload, key);
}

/// fastwebsockets validates with the standard library.
#[inline]
pub fn fastwebsockets_text(payload: &mut [u8], key: [u8; 4]) {
    fastwebsockets(payload, key);
    assert!(std::str::from_utf8(payload).is_ok());
}

/// Masked by sockudo-ws.
#[inline]
pub fn sockudo_ws(payload: &mut [u8], key: [u8; 4]) {
    sockudo_ws::simd::apply_mask(payload, key);
}

/// sockudo-ws validates with simdutf8.
#[inline]
pub fn sockudo_ws_text(payload: &mut [u8], key: [u8; 4]) {
    sockudo_ws(payload, key);
    assert!(sockudo_ws::utf8::validate_utf8(payload));
}
