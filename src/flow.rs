//! Flow control for one exchange: pure credit arithmetic, no I/O, no clock.
//!
//! The page may send only what it has credit for. We give credit back as bytes arrive, for as long as
//! our own buffer has room, so a client that reads slowly is absorbed up to the buffer's cap and then
//! slows its own fetch, and nobody else's.
//!
//! ```text
//!   site ──> page ── outstanding ≤ credit ──> buffered ──> client
//!                └────── outstanding + buffered ≤ cap ─────┘
//! ```

/// The page sent more than it was allowed to. It is our own script, so this is a defect, not weather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

/// The credit window of one exchange. All quantities are bytes of body.
#[derive(Clone, Debug)]
pub struct Window {
    credit: usize,
    cap: usize,
    outstanding: usize,
    buffered: usize,
}

impl Window {
    /// A window that starts with `credit` given to the page; at most `cap` bytes (at least `credit`)
    /// are ever outstanding or buffered.
    pub fn new(credit: usize, cap: usize) -> Self {
        Window { credit, cap: cap.max(credit), outstanding: credit, buffered: 0 }
    }

    /// Takes note of `n` bytes that came from the page into the buffer.
    pub fn received(&mut self, n: usize) -> Result<(), Overrun> {
        self.outstanding = self.outstanding.checked_sub(n).ok_or(Overrun)?;
        self.buffered += n;
        Ok(())
    }

    /// Takes note of `n` bytes that the client took out of the buffer.
    pub fn taken(&mut self, n: usize) {
        debug_assert!(n <= self.buffered);
        self.buffered -= n;
    }

    /// How much credit to give back now, if it is worth a message: at least half of the window.
    pub fn grant(&mut self) -> Option<u32> {
        let room = (self.credit - self.outstanding).min(self.cap - self.buffered - self.outstanding);
        if room == 0 || room < self.credit / 2 {
            return None;
        }
        self.outstanding += room;
        // A window is a few hundred kilobytes; the conversion cannot fail for any that we build.
        u32::try_from(room).ok()
    }

    /// Whether the buffer is so full that the page has been left without credit.
    pub fn is_full(&self) -> bool {
        self.cap - self.buffered < self.credit.div_ceil(2)
    }

    /// Bytes in the buffer.
    pub fn buffered(&self) -> usize {
        self.buffered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn credit_comes_back_at_half() {
        let mut w = Window::new(100, 1000);
        w.received(49).unwrap();
        assert_eq!(w.grant(), None);
        w.received(1).unwrap();
        assert_eq!(w.grant(), Some(50));
        assert_eq!(w.grant(), None);
    }

    #[test]
    fn a_reader_that_takes_nothing_stops_the_page_at_the_cap() {
        let (mut w, mut page) = (Window::new(100, 250), 100);
        let mut total = 0;
        while page > 0 {
            total += page;
            w.received(page).unwrap();
            page = w.grant().unwrap_or(0) as usize;
        }
        assert_eq!(total, 250);
        assert!(w.is_full());
        assert_eq!(w.received(1), Err(Overrun));
        w.taken(250);
        assert_eq!(w.grant(), Some(100));
    }

    proptest! {
        /// Whatever the order of arrivals and reads: the bounds hold, and nobody waits for ever.
        #[test]
        fn bounds_hold_and_nothing_deadlocks(
            credit in 2usize..5000, extra in 0usize..20000,
            steps in prop::collection::vec((any::<bool>(), 1usize..4000), 1..300),
        ) {
            let cap = credit + extra;
            let mut w = Window::new(credit, cap);
            let mut page = credit; // what the page believes it may send
            for (arrive, n) in steps {
                if arrive {
                    let n = n.min(page);
                    prop_assert!(w.received(n).is_ok());
                    page -= n;
                } else {
                    w.taken(n.min(w.buffered()));
                }
                page += w.grant().unwrap_or(0) as usize;
                prop_assert!(page <= credit);
                prop_assert!(w.buffered() + page <= cap);
            }
            w.taken(w.buffered());
            page += w.grant().unwrap_or(0) as usize;
            prop_assert!(page > 0, "an empty buffer must let the page go on");
        }
    }
}
