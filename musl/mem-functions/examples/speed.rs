//! Nanoseconds a call, of these functions and of those that the program is linked with. Built for glibc, the
//! latter are glibc's; built for musl, they are these.
//!
//! ```sh
//! cargo run --release -p mem-functions --example speed
//! ```

use std::hint::black_box;
use std::time::Instant;

fn main() {
    let mut to = vec![0_u8; 1 << 20];
    let from = vec![1_u8; 1 << 20];
    let same = from.clone();
    println!("{:>8} {:>10} {:>10} {:>10} {:>10}", "BYTES", "COPY", "LINKED", "COMPARE", "LINKED");
    for len in [1, 7, 16, 24, 48, 100, 200, 400, 1_000, 4_096, 16_384, 65_536, 1 << 20] {
        let turns = (200_000_000 / (len + 40)).min(4_000_000);
        let time = |mut work: Box<dyn FnMut(usize) + '_>| {
            // Warm, and the best of three: what else the machine does only adds.
            let measured = (0..4).map(|_| {
                let start = Instant::now();
                for turn in 0..turns {
                    work(turn % 16);
                }
                start.elapsed().as_nanos() as f64 / turns as f64
            });
            measured.skip(1).fold(f64::INFINITY, f64::min)
        };
        let last = (1 << 20) - len;
        // SAFETY: `at` is moved so that the range stays within the buffers.
        let copy = time(Box::new(|at| unsafe {
            mem_functions::copy(
                black_box(to.as_mut_ptr()),
                black_box(from.as_ptr().add(at.min(last))),
                black_box(len),
            );
        }));
        let linked = time(Box::new(|at| {
            let at = at.min(last);
            black_box(&mut to)[..black_box(len)].copy_from_slice(&black_box(&from)[at..at + black_box(len)]);
        }));
        // SAFETY: as above.
        let compare = time(Box::new(|at| unsafe {
            let at = at.min(last);
            black_box(mem_functions::compare(
                black_box(same.as_ptr().add(at)),
                from.as_ptr().add(at),
                black_box(len),
            ));
        }));
        let linked_compare = time(Box::new(|at| {
            let at = at.min(last);
            black_box(black_box(&same)[at..at + black_box(len)] == from[at..at + black_box(len)]);
        }));
        println!("{len:>8} {copy:>10.1} {linked:>10.1} {compare:>10.1} {linked_compare:>10.1}");
    }
}
