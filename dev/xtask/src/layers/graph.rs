//! Circles in a directed graph.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Some circle through every edge that lies on one: the shortest circles, and no edge needs a further one.
/// Each starts at its lowest node.
pub fn circles(edges: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<usize>> {
    let mut graph: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (from, to) in edges {
        graph.entry(from).or_default().insert(to);
    }
    let edges = graph.iter().flat_map(|(from, next)| next.iter().map(|to| (*from, *to)));
    let mut all: Vec<_> = edges.filter_map(|(from, to)| way(&graph, to, from).map(rotated)).collect();
    all.sort_by_key(|circle| (circle.len(), circle.clone()));
    let mut cut = BTreeSet::new();
    all.retain(|circle| {
        let mut steps = circle.iter().zip(circle.iter().cycle().skip(1));
        // Cutting the circles before this one may open it as well; what is left shows at the next run.
        let is_open = steps.any(|(from, to)| cut.contains(&(*from, *to)));
        if !is_open {
            cut.extend(circle.iter().zip(circle.iter().cycle().skip(1)).map(|(from, to)| (*from, *to)));
        }
        !is_open
    });
    all
}

/// The shortest way from one node to another, both included.
fn way(graph: &BTreeMap<usize, BTreeSet<usize>>, from: usize, to: usize) -> Option<Vec<usize>> {
    let mut reached_from = BTreeMap::from([(from, from)]);
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if node == to {
            let mut way = vec![to];
            let mut at = to;
            while at != from {
                at = *reached_from.get(&at)?;
                way.push(at);
            }
            way.reverse();
            return Some(way);
        }
        for next in graph.get(&node).into_iter().flatten() {
            if !reached_from.contains_key(next) {
                reached_from.insert(*next, node);
                queue.push_back(*next);
            }
        }
    }
    None
}

fn rotated(mut circle: Vec<usize>) -> Vec<usize> {
    let lowest = circle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(at, _)| at);
    circle.rotate_left(lowest);
    circle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_circle_is_found_once_and_a_way_that_is_none_is_not() {
        let found = circles([(1, 2), (2, 1), (2, 3), (3, 4), (4, 2), (4, 5), (0, 1)].into_iter());
        assert_eq!(found, [vec![1, 2], vec![2, 3, 4]]);
        assert_eq!(circles([(1, 2), (1, 3), (2, 3)].into_iter()), Vec::<Vec<usize>>::new());
    }
}
