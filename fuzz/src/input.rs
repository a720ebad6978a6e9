//! The fuzzer's bytes as small choices.

/// What is left of the input. Past its end everything is zero.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        byte
    }

    pub(crate) fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    /// So many bytes, or fewer at the end.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// A topic filter, mostly well formed, of levels so few that filters and names meet.
    pub(crate) fn filter(&mut self) -> String {
        const LEVELS: [&str; 12] =
            ["a", "b", "+", "#", "", "$x", "ab", "$share", "a level of many bytes", "c", "d", "+"];
        let count = 1 + self.below(5);
        let levels: Vec<&str> = (0..count).map(|_| LEVELS[self.below(LEVELS.len())]).collect();
        levels.join("/")
    }

    /// A topic name, empty at times.
    pub(crate) fn name(&mut self) -> String {
        self.filter().replace(['+', '#'], "c")
    }
}
