//! Random choices, by a seed or by bytes that a fuzzer has found, and the tables that they make.

pub(crate) mod world;

/// Where choices come from: the same in every run with the same bytes and seed.
pub(crate) struct Random {
    /// The first choices, two bytes for each.
    bytes: Vec<u8>,
    /// What `SplitMix64` goes on from.
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { bytes: Vec::new(), state: seed }
    }

    /// Chooses by these bytes as long as there are any.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self { bytes: bytes.iter().rev().copied().collect(), state: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        if let (Some(high), low) = (self.bytes.pop(), self.bytes.pop()) {
            return u64::from(high) << 8 | u64::from(low.unwrap_or_default());
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    pub(crate) fn flag(&mut self) -> u8 {
        self.byte() & 1
    }

    /// One of them; there is at least one.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Changes up to four bytes, mostly of headers; now and then cuts or lengthens the frame.
    pub(crate) fn mutate(&mut self, frame: &mut Vec<u8>) {
        const TELLING: [u8; 16] = [0, 1, 4, 5, 6, 8, 17, 43, 44, 58, 60, 0x45, 0x46, 0x60, 0x80, 0xff];
        match self.below(16) {
            0 => frame.truncate(self.below(frame.len() + 1)),
            1 | 2 => frame.resize(frame.len() + self.below(60), 0),
            _ => {}
        }
        for _ in 0..=self.below(4) {
            let reach = if self.once_in(4) { frame.len() } else { frame.len().min(80) };
            // Most bytes of the Ethernet header only make the frame somebody else's.
            let from = if self.once_in(8) { 0 } else { reach.min(12) };
            if reach == from {
                return;
            }
            let at = from + self.below(reach - from);
            frame[at] = match self.below(3) {
                0 => frame[at] ^ 1 << self.below(8),
                1 => self.pick(&TELLING),
                _ => self.byte(),
            };
        }
    }
}
