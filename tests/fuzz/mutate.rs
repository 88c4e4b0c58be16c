//! Inputs from a corpus: one to four small changes each, always the same ones.

/// What parsers stumble over; inserted whole, as bytes at random would hardly ever make it.
const WORDS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\"\"",
    b"[]",
    b"{}",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\0",
    "é".as_bytes(),
    b"0.0.0.0/0",
    b"255.255.255.255/32",
    b"10.0.0.1/33",
    b"::ffff:10.0.0.1",
    b"cniVersion",
    b"IgnoreUnknown=1",
    b";",
    b"=",
    b"&#0;",
    b"<!DOCTYPE a>",
    b"<IPSubnet Prefix=\"0.0.0.0/31\"/>",
];

/// Makes inputs out of seeds.
pub struct Mutator<'a> {
    seeds: &'a [&'a [u8]],
    random: u64,
}

impl<'a> Mutator<'a> {
    pub fn new(seeds: &'a [&'a [u8]]) -> Self {
        Mutator {
            seeds,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.pick(self.seeds).to_vec();
        for _ in 0..=self.below(3) {
            self.change(&mut input);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let position = self.below(input.len());
        let end = (position + self.below(16) + 1).min(input.len());
        match self.below(6) {
            0 if position < end => input[position] ^= 1 << self.below(8),
            1 => drop(input.drain(position..end)),
            2 => {
                let piece = input[position..end].to_vec();
                self.insert(input, &piece);
            }
            3 => {
                let word = self.pick(&WORDS);
                self.insert(input, word);
            }
            4 => {
                let word = self.pick(&WORDS);
                input.splice(position..end, word.iter().copied());
            }
            _ => self.borrow_from_another(input),
        }
    }

    fn insert(&mut self, input: &mut Vec<u8>, bytes: &[u8]) {
        let position = self.below(input.len() + 1);
        input.splice(position..position, bytes.iter().copied());
    }

    fn borrow_from_another(&mut self, input: &mut Vec<u8>) {
        let other = self.pick(self.seeds);
        let start = self.below(other.len());
        let end = (start + self.below(64)).min(other.len());
        self.insert(input, &other[start..end]);
    }

    fn pick<'b>(&mut self, from: &[&'b [u8]]) -> &'b [u8] {
        from[self.below(from.len())]
    }

    /// A number below `limit`, or 0 (xorshift64).
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // Not quite even, which does not matter here; the modulus fits as the limit is a usize.
        usize::try_from(self.random % (limit.max(1) as u64)).unwrap()
    }
}
