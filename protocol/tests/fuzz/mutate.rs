//! Inputs mutated from stored ones by a seeded generator: the same for the same seed and corpus.

/// Bytes with a meaning in the protocols.
const TOKENS: [&[u8]; 33] = [
    b"\x81\x80\0\0\0\0",
    b"\x81\x00",
    b"\x01\x84\0\0\0\0text",
    b"\x80\x80\0\0\0\0",
    b"\x89\x80\0\0\0\0",
    b"\x8a\x00",
    b"\x88\x82\0\0\0\0\x03\xe8",
    b"\x82\xfe\x00\x7e\0\0\0\0",
    b"\x82\x7e\x00\x7e",
    b"\xff\0\0\0\0\0\x01\0\0",
    b"\x7f\0\0\0\0\0\x01\0\0",
    b"\xf0\x9f\x98\x80",
    b"\xe6\x97\xa5",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\xaf",
    b"GET ws://a:1/b?c HTTP/1.1\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"Host: a\r\n",
    b"Connection: keep-alive, Upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
    b"Sec-WebSocket-Extensions: a; b=\"c\"\r\n",
    b"Sec-WebSocket-Protocol: chat\r\n",
    b", permessage-deflate",
    b"; server_no_context_takeover",
    b"; client_no_context_takeover",
    b"; server_max_window_bits=15",
    b"; client_max_window_bits=\"8\"",
];

/// Bytes at a boundary of some rule.
const BYTES: [u8; 16] =
    [0, 1, 8, 13, 32, 58, 125, 126, 127, 0x80, 0x81, 0x88, 0x89, 0xbf, 0xfe, 0xff];

/// Longest input; longer ones only cost time.
const MAX_LEN: usize = 2048;

pub(crate) struct Mutator<'a> {
    state: u64,
    seeds: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(seed: u64, seeds: &'a [Vec<u8>]) -> Self {
        Mutator { state: seed, seeds }
    }

    /// Returns a stored input, changed in one to six places.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut input = self.seed().to_vec();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(MAX_LEN);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input.len());
        match self.below(8) {
            0 => self.at_a_place(input, |byte, any| *byte ^= 1 << (any % 8)),
            1 => self.at_a_place(input, |byte, any| *byte = any),
            2 => self.at_a_place(input, |byte, any| *byte = BYTES[usize::from(any) % BYTES.len()]),
            3 => drop(input.drain(range)),
            4 => input.extend_from_within(range),
            5 => {
                let part = self.part_of_a_seed();
                drop(input.splice(range, part.iter().copied()));
            }
            6 => {
                let token = TOKENS[self.below(TOKENS.len())];
                let at = range.start;
                drop(input.splice(at..at, token.iter().copied()));
            }
            _ => {
                let any: Vec<u8> = (0..self.below(20)).map(|_| self.any() as u8).collect();
                let at = range.start;
                drop(input.splice(at..at, any));
            }
        }
    }

    fn at_a_place(&mut self, input: &mut [u8], change: impl FnOnce(&mut u8, u8)) {
        let (at, any) = (self.below(input.len().max(1)), self.any() as u8);
        if let Some(byte) = input.get_mut(at) {
            change(byte, any);
        }
    }

    fn seed(&mut self) -> &'a [u8] {
        &self.seeds[self.below(self.seeds.len())]
    }

    fn part_of_a_seed(&mut self) -> &'a [u8] {
        let seed = self.seed();
        &seed[self.range(seed.len())]
    }

    /// Returns a range within `len`; short ones are more likely.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let longest = self.below(len - start + 1);
        start..start + self.below(longest + 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.any() % bound as u64) as usize
    }

    /// Returns the next number of SplitMix64.
    fn any(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
