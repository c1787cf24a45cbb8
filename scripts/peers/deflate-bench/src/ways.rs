//! The compressors, each as an end of a connection uses it.

use bytes::BytesMut;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use libdeflater::{CompressionLvl, Compressor, Decompressor};
use protocol::deflate::{CompressorSettings, Deflater, History, Inflater};
use protocol::{Limits, MessageKind};

/// Follows the payload of a compressed message, so that a decoder of whole streams ends: the four
/// bytes that were removed (RFC 7692 7.2.1), and a final empty block.
const TAIL: [u8; 6] = [0, 0, 0xff, 0xff, 3, 0];

/// A compressor and the inflater for what it makes.
pub trait Way {
    /// Compresses a message. Returns the payload.
    fn deflate(&mut self, message: &[u8]) -> Vec<u8>;
    /// Inflates a payload. Returns the number of bytes.
    fn inflate(&mut self, payload: &[u8]) -> usize;
}

/// All ways, by name.
pub fn all() -> Vec<(String, Box<dyn Way>)> {
    let mut ways: Vec<(String, Box<dyn Way>)> = Vec::new();
    for level in [1, 6] {
        for takes_over in [false, true] {
            let with = if takes_over { ", takeover" } else { "" };
            let ours = Box::new(Ours::new(level, takes_over));
            ways.push((format!("zlib-rs, level {level}{with}"), ours));
        }
        ways.push((format!("libdeflate, level {level}"), Box::new(LibDeflate::new(level.into()))));
        ways.push((format!("miniz_oxide, level {level}"), Box::new(Miniz::new(level.into()))));
    }
    ways
}

/// This project's, with zlib-rs.
struct Ours {
    deflater: Deflater,
    inflater: Inflater,
    history: Option<History>,
    out: BytesMut,
    inflated: Vec<u8>,
}

impl Ours {
    fn new(level: u8, takes_over: bool) -> Self {
        Self {
            deflater: Deflater::new(
                CompressorSettings { level, ..CompressorSettings::default() },
                takes_over,
            ),
            inflater: Inflater::new(),
            history: takes_over.then(|| History::new(15)),
            out: BytesMut::new(),
            inflated: vec![0; 8 << 10],
        }
    }
}

impl Way for Ours {
    fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
        self.out.clear();
        self.deflater.deflate(message, &mut self.out);
        self.out.to_vec()
    }

    fn inflate(&mut self, payload: &[u8]) -> usize {
        self.inflater.begin(MessageKind::Binary, self.history.as_mut());
        let limits = Limits::default();
        let (scratch, history) = (&mut self.inflated, self.history.as_mut());
        let result = self.inflater.inflate_all(&limits, payload, true, scratch, history, |_| {});
        result.expect("it was made here");
        self.inflater.len() as usize
    }
}

/// libdeflate, which knows whole messages only, and no context. Blocks end with BFINAL (RFC 7692
/// 7.2.3.4).
struct LibDeflate {
    compressor: Compressor,
    decompressor: Decompressor,
    inflated: Vec<u8>,
}

impl LibDeflate {
    fn new(level: i32) -> Self {
        Self {
            compressor: Compressor::new(CompressionLvl::new(level).expect("a level")),
            decompressor: Decompressor::new(),
            inflated: vec![0; 2 << 20],
        }
    }
}

impl Way for LibDeflate {
    fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; self.compressor.deflate_compress_bound(message.len())];
        let len = self.compressor.deflate_compress(message, &mut payload).expect("it fits");
        payload.truncate(len);
        payload.push(0);
        payload
    }

    fn inflate(&mut self, payload: &[u8]) -> usize {
        let whole = [payload, &TAIL].concat();
        self.decompressor.deflate_decompress(&whole, &mut self.inflated).expect("it was made here")
    }
}

/// miniz_oxide, through flate2.
struct Miniz {
    compress: Compress,
    decompress: Decompress,
    inflated: Vec<u8>,
}

impl Miniz {
    fn new(level: u32) -> Self {
        Self {
            compress: Compress::new(Compression::new(level), false),
            decompress: Decompress::new(false),
            inflated: vec![0; 2 << 20],
        }
    }
}

impl Way for Miniz {
    fn deflate(&mut self, message: &[u8]) -> Vec<u8> {
        self.compress.reset();
        let mut payload = Vec::with_capacity(message.len() + 128);
        self.compress.compress_vec(message, &mut payload, FlushCompress::Sync).expect("in order");
        payload.truncate(payload.len() - 4);
        payload
    }

    fn inflate(&mut self, payload: &[u8]) -> usize {
        self.decompress.reset(false);
        let whole = [payload, &TAIL].concat();
        let flush = FlushDecompress::Finish;
        self.decompress.decompress(&whole, &mut self.inflated, flush).expect("it was made here");
        self.decompress.total_out() as usize
    }
}
