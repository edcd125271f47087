//! Where the pieces of a run are in its file.
//!
//! A piece is what was written to the run at once: chunks, then an index (see [`run`](super::run)). It begins at
//! a multiple of 4,096 bytes, so that what is appended shares no block of the disk with what is there; the bytes
//! between two pieces mean nothing.
//!
//! # Invariants
//!
//! 1. All places follow from how many ids each piece has, which is in the manifest. What is behind the last of
//!    these pieces is none of the run: a crash left it, or the run was cut off, and the next piece is written there.
//! 2. The index of a piece has the first ids of its own chunks, and of those of some pieces before it: of as many
//!    pieces in all as the greatest power of two that divides its number, counted from 1 (Fenwick, "A New Data
//!    Structure for Cumulative Frequency Tables", 1994). So an opening reads one index for each bit of the number of pieces that is
//!    set, and not one for each piece.

use std::ops::Range;

use super::filter;
use super::manifest::Piece;
use super::page::{CHUNK, KEY, PAGE, Place};

/// The pieces of a run, in the order in which they were written, which is that of their ids.
#[derive(Debug)]
pub(super) struct Pieces(Box<[Span]>);

#[derive(Debug, Clone, Copy)]
struct Span {
    /// Its first byte.
    at: u64,
    /// Its first chunk, of those of the run.
    chunk: usize,
    ids: u64,
}

impl Span {
    fn chunks(&self) -> usize {
        usize::try_from(self.ids.div_ceil(CHUNK as u64)).unwrap_or(usize::MAX)
    }

    fn index_at(&self) -> u64 {
        let last = Place::of(self.chunks().saturating_sub(1), self.ids);
        self.at + last.at + last.length()
    }
}

/// The index of a piece.
#[derive(Debug)]
pub(super) struct IndexPlace {
    pub(super) at: u64,
    /// The chunks whose first ids it has.
    pub(super) chunks: Range<usize>,
}

impl IndexPlace {
    /// First ids, the last id, and a checksum.
    pub(super) fn length(&self) -> usize {
        (self.chunks.len() + 2) * KEY
    }

    fn end(&self) -> u64 {
        self.at + self.length() as u64
    }
}

impl Pieces {
    pub(super) fn of(listed: &[Piece]) -> Self {
        let (mut spans, mut next): (Vec<Span>, _) = (Vec::with_capacity(listed.len()), (0, 0));
        for piece in listed {
            let span = Span { at: next.0, chunk: next.1, ids: piece.ids };
            spans.push(span);
            let index = index_of(&spans, spans.len() - 1);
            next = (index.end().next_multiple_of(PAGE as u64), index.chunks.end);
        }
        Self(spans.into())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn chunks(&self) -> usize {
        self.0.last().map_or(0, |last| last.chunk + last.chunks())
    }

    /// The chunks of pieces from that one on.
    pub(super) fn chunks_from(&self, piece: usize) -> Range<usize> {
        self.0.get(piece).map_or(self.chunks(), |span| span.chunk)..self.chunks()
    }

    /// Bytes of all filters.
    pub(super) fn filter_bytes(&self) -> u64 {
        let blocks =
            self.0.iter().map(|span| filter::blocks(usize::try_from(span.ids).unwrap_or(usize::MAX)));
        blocks.sum::<usize>() as u64 * filter::BLOCK as u64
    }

    /// The piece that has that chunk.
    fn of_chunk(&self, chunk: usize) -> usize {
        self.0.partition_point(|span| span.chunk <= chunk).saturating_sub(1)
    }

    /// The piece at that byte.
    pub(super) fn at(&self, byte: u64) -> usize {
        self.0.partition_point(|span| span.at <= byte).saturating_sub(1)
    }

    pub(super) fn place(&self, chunk: usize) -> Place {
        let span = self.0.get(self.of_chunk(chunk)).copied().unwrap_or(Span { at: 0, chunk, ids: 0 });
        let place = Place::of(chunk - span.chunk, span.ids);
        Place { at: span.at + place.at, ..place }
    }

    pub(super) fn index(&self, piece: usize) -> IndexPlace {
        index_of(&self.0, piece)
    }

    /// The byte behind the last piece.
    pub(super) fn end(&self) -> u64 {
        self.count().checked_sub(1).map_or(0, |last| self.index(last).end())
    }

    /// Where the next piece begins.
    pub(super) fn next_at(&self) -> u64 {
        self.end().next_multiple_of(PAGE as u64)
    }

    /// The chunks that the index of the next piece has beside its own.
    pub(super) fn before_next(&self) -> Range<usize> {
        self.chunks_from(first_covered(self.count()))
    }
}

/// The first piece whose chunks are in the index of that one.
pub(super) fn first_covered(piece: usize) -> usize {
    piece & (piece + 1)
}

fn index_of(spans: &[Span], piece: usize) -> IndexPlace {
    let chunk = spans.get(first_covered(piece)).map_or(0, |span| span.chunk);
    let (at, end) = spans.get(piece).map_or((0, chunk), |span| (span.index_at(), span.chunk + span.chunks()));
    IndexPlace { at, chunks: chunk..end }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(ids: &[u64]) -> Pieces {
        let listed: Vec<Piece> = ids.iter().map(|ids| Piece { ids: *ids, end: 0 }).collect();
        Pieces::of(&listed)
    }

    #[test]
    fn pieces_follow_each_other_and_each_chunk_is_in_one() {
        let pieces = pieces(&[1, 16_320, 16_321, 57_344, 3]);
        assert_eq!(pieces.chunks(), 1 + 1 + 2 + 4 + 1);
        let mut end = 0;
        for chunk in 0..pieces.chunks() {
            let place = pieces.place(chunk);
            assert!(place.at >= end, "chunk {chunk}");
            end = place.at + place.length();
            assert_eq!(pieces.at(place.at), pieces.of_chunk(chunk));
        }
        for piece in 1..5 {
            let before = pieces.index(piece - 1);
            let first = pieces.place(pieces.chunks_from(piece).start).at;
            assert!(
                first >= before.end()
                    && first < before.end() + PAGE as u64
                    && first.is_multiple_of(PAGE as u64)
            );
        }
        assert_eq!(pieces.filter_bytes(), (1 + 340 + 341 + 1_195 + 1) * 64);
    }

    #[test]
    fn few_indexes_have_all_chunks_once_however_many_pieces_there_are() {
        for count in 1..200 {
            let pieces = pieces(&vec![16_321; count]);
            let (mut left, mut chunks, mut read) = (count, pieces.chunks(), 0);
            while left > 0 {
                let index = pieces.index(left - 1);
                assert_eq!(index.chunks.end, chunks);
                (left, chunks, read) = (first_covered(left - 1), index.chunks.start, read + 1);
            }
            assert_eq!((chunks, read), (0, count.count_ones()));
        }
        assert_eq!(pieces(&[1; 6]).before_next(), 6..6, "that of the seventh has only its own");
        assert_eq!(pieces(&[1; 7]).before_next(), 0..7);
    }
}
