//! Rateless invertible Bloom lookup tables: an endless row of cells over a set of short ids, of
//! which any first part, subtracted from the other side's, gives the difference of the sets once
//! it is about 1.4 times as long as that.
//!
//! After Lei Yang, Yossi Gilad, Mohammad Alizadeh: Practical Rateless Set Reconciliation, ACM
//! SIGCOMM 2024, arXiv 2402.02668. An id is in cell 0, and in cell `i` with probability
//! `1 / (1 + i / 2)`; the distance to its next cell is drawn by the inverse of the distribution
//! (section 4.2 there). Own code, because no implementation on crates.io is maintained.

use crate::key::{NameKey, ShortId};

/// Length of an encoded cell.
pub(crate) const CELL_BYTES: usize = 8 + CHECK_BYTES + 1;
/// Bytes of a check. Among a session's cells, some 100,000 looked at, none is taken for one id by
/// chance but in one of ten million sessions, which then learns less and harms nothing.
const CHECK_BYTES: usize = 5;
const CHECK_MASK: u64 = (1 << (8 * CHECK_BYTES)) - 1;

/// The XOR of the ids in it, of their checks, and their number modulo 256.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cell {
    sum: u64,
    check: u64,
    count: u8,
}

impl Cell {
    /// Of nothing.
    const EMPTY: Self = Self { sum: 0, check: 0, count: 0 };

    pub(crate) fn to_bytes(self) -> [u8; CELL_BYTES] {
        let mut bytes = [self.count; CELL_BYTES];
        bytes[..8].copy_from_slice(&self.sum.to_le_bytes());
        bytes[8..13].copy_from_slice(&self.check.to_le_bytes()[..CHECK_BYTES]);
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; CELL_BYTES]) -> Self {
        let (mut sum, mut check) = ([0; 8], [0; 8]);
        sum.copy_from_slice(&bytes[..8]);
        check[..CHECK_BYTES].copy_from_slice(&bytes[8..13]);
        let (sum, check) = (u64::from_le_bytes(sum), u64::from_le_bytes(check));
        Self { sum, check, count: bytes[13] }
    }

    fn toggle(&mut self, id: ShortId, check: u64, count: u8) {
        self.sum ^= id.0;
        self.check ^= check;
        self.count = self.count.wrapping_add(count);
    }

    fn without(self, other: Self) -> Self {
        let count = self.count.wrapping_sub(other.count);
        Self { sum: self.sum ^ other.sum, check: self.check ^ other.check, count }
    }
}

/// Cells `from ..` of the row over a set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    mix: [u64; 2],
    from: usize,
    cells: Vec<Cell>,
}

impl Row {
    /// Cells `from .. to` over the empty set.
    pub(crate) fn new(key: &NameKey, from: usize, to: usize) -> Self {
        Self { mix: key.mix, from, cells: vec![Cell::EMPTY; to.saturating_sub(from)] }
    }

    /// Puts `id` in.
    pub(crate) fn insert(&mut self, id: ShortId) {
        self.toggle(id, 1);
    }

    /// Takes `id` out.
    pub(crate) fn remove(&mut self, id: ShortId) {
        self.toggle(id, 1_u8.wrapping_neg());
    }

    fn toggle(&mut self, id: ShortId, count: u8) {
        let check = check(self.mix, id);
        let end = self.from + self.cells.len();
        for at in places(self.mix, id).take_while(|at| *at < end) {
            if at >= self.from {
                self.cells[at - self.from].toggle(id, check, count);
            }
        }
    }

    /// The cells up to `to`, as a row that is cut there.
    pub(crate) fn first(&self, to: usize) -> Self {
        let cells = self.cells[..to.min(self.cells.len())].to_vec();
        Self { mix: self.mix, from: self.from, cells }
    }

    /// The cells.
    pub(crate) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// The cells.
    pub(crate) fn into_cells(self) -> Vec<Cell> {
        self.cells
    }
}

/// How two sets differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Difference {
    /// In the other side's set only.
    pub(crate) theirs: Vec<ShortId>,
    /// In this side's set only.
    pub(crate) ours: Vec<ShortId>,
}

/// The difference of two sets from the first cells of their rows, as many of `ours` as of
/// `theirs`. `None` where they are too few, or no such cells at all.
pub(crate) fn decode(key: &NameKey, theirs: &[Cell], ours: &[Cell]) -> Option<Difference> {
    let mut cells: Vec<Cell> = theirs.iter().zip(ours).map(|(a, b)| a.without(*b)).collect();
    let end = cells.len();
    let mut found = Difference::default();
    let mut pure: Vec<usize> = (0..cells.len()).collect();
    while let Some(at) = pure.pop() {
        let Cell { sum, check: sum_check, count } = cells[at];
        let id = ShortId(sum);
        if !matches!(count, 1 | u8::MAX) || check(key.mix, id) != sum_check {
            continue;
        }
        // Honest cells empty for good the cell that gave an id; others could go on for ever.
        if found.theirs.len() + found.ours.len() >= end {
            return None;
        }
        if count == 1 { &mut found.theirs } else { &mut found.ours }.push(id);
        for place in places(key.mix, id).take_while(|place| *place < end) {
            cells[place].toggle(id, sum_check, count.wrapping_neg());
            pure.push(place);
        }
        if cells[at] != Cell::EMPTY {
            return None;
        }
    }
    (end > 0 && cells.iter().all(|cell| *cell == Cell::EMPTY)).then_some(found)
}

/// How many cells give a difference of `expected` ids, as measured, in 99 of 100 cases. (The
/// paper's overhead is 1.35 for many, up to 1.72 for few, on average.)
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
pub(crate) fn cells_for(expected: f64) -> usize {
    (1.37 * expected + 4.0 * expected.sqrt() + 6.0) as usize
}

/// The cells that `id` is in, in order.
fn places(mix: [u64; 2], id: ShortId) -> impl Iterator<Item = usize> {
    let mut random = scrambled(id.0 ^ mix[0]);
    let mut at = 0;
    std::iter::once(0).chain(std::iter::from_fn(move || {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        at = next_place(at, scrambled(random));
        Some(at)
    }))
}

/// The place after `at`, by the inverse of the distribution of distances: deterministic, since
/// IEEE 754 fixes every operation here to the bit.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places are small, distances positive, and too large ones saturate"
)]
fn next_place(at: usize, random: u64) -> usize {
    let uniform = ((random >> 11) + 1).cast_signed() as f64 / (1_i64 << 53) as f64;
    let distance = (at as f64 + 1.5) * (1.0 / uniform.sqrt() - 1.0);
    at.saturating_add(1).saturating_add(distance as u32 as usize)
}

fn check(mix: [u64; 2], id: ShortId) -> u64 {
    scrambled(id.0 ^ mix[1]) & CHECK_MASK
}

/// A permutation in which each bit depends on all: the finaliser of `SplitMix64`, which is David
/// Stafford's thirteenth.
fn scrambled(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
