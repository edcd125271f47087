//! Tiles that were changed, cut, made longer or removed, alone and beside a line that was changed.

use super::*;

/// 2,000 lines have seven full tiles of leaves, a partial one of 208, and a partial tile of level 1 with 7.
const TILES: [&str; 3] = ["0/003", "0/007.p/208", "1/000.p/7"];

#[test]
fn a_changed_tile_is_named_with_its_hash_and_nothing_else_is_blamed() {
    for tile in TILES {
        let rig = Rig::new();
        rig.tile(tile, |bytes| bytes[5 * 32 + 7] ^= 1);
        let named = format!("tile/{tile} was changed: hash 5, and not the log");
        assert_found(&rig.found(), &[&named], tile);
        // Several of its hashes.
        rig.tile(tile, |bytes| bytes[2 * 32] ^= 1);
        let named = format!("tile/{tile} was changed: hash 2, 5, and not the log");
        assert_found(&rig.found(), &[&named], tile);
        rig.tile(tile, |bytes| bytes.fill(7));
        let found = rig.found();
        assert!(
            found.len() == 1 && found[0].starts_with(&format!("tile tile/{tile} was changed")),
            "{found:#?}"
        );
    }
}

#[test]
fn the_last_hash_of_a_tree_is_told_apart_from_lines_that_are_not_signed_yet() {
    let rig = Rig::new();
    rig.put("audit.log", &[rig.lines.clone(), others(3)].concat());
    rig.tile("0/007.p/208", |bytes| bytes[207 * 32] ^= 1);
    let named = "tile/0/007.p/208 was changed: hash 207, and not the log";
    assert_found(&rig.found(), &[named, "3 behind from audit.log:2001 (byte"], "the last hash");
}

#[test]
fn a_tile_that_is_missing_cut_or_too_long_is_named_and_its_lines_are_verified() {
    type Change = fn(&mut Vec<u8>);
    for tile in TILES {
        let lacks = match tile {
            "0/003" => "the tree lacks entries 768 to 1023: ",
            "0/007.p/208" => "the tree lacks entries 1792 to 1999: ",
            _ => "",
        };
        let (cut, long): (Change, Change) = (|bytes| bytes.truncate(70), |bytes| bytes.push(0));
        for (what, change) in [("70 bytes", cut), ("bytes, not", long)] {
            let rig = Rig::new();
            rig.tile(tile, change);
            let named = format!("{lacks}tile tile/{tile}: it has ..{what}");
            assert_found(&rig.found(), &[&named], tile);
        }
        let rig = Rig::new();
        fs::remove_file(rig.path("tile").join(tile)).unwrap();
        let named = format!("{lacks}tile tile/{tile}: it is missing; what is below it is as it was");
        assert_found(&rig.found(), &[&named], tile);
    }
}

#[test]
fn a_whole_level_that_is_missing_is_one_finding_and_the_lines_are_verified() {
    let rig = Rig::new();
    fs::remove_dir_all(rig.path("tile/0")).unwrap();
    let all = "the tree lacks entries 0 to 1999: tile tile/0/000: it is missing (and 7 tiles behind it)";
    assert_found(&rig.found(), &[all], "level 0");
    let rig = Rig::new();
    fs::remove_dir_all(rig.path("tile/1")).unwrap();
    assert_found(
        &rig.found(),
        &["tile tile/1/000.p/7: it is missing; what is below it is as it was"],
        "level 1",
    );
}

#[test]
fn a_tile_and_a_line_that_were_changed_are_both_named() {
    let rig = Rig::new();
    let mut lines = rig.lines.clone();
    lines[770].push(' ');
    lines[1_500].push(' ');
    rig.put("audit.log", &lines);
    let line = |number: u64| format!("audit.log:{} (byte .. is not what entry {number} was", number + 1);
    // In the same tile, and in another.
    rig.tile("0/003", |bytes| bytes[5 * 32] ^= 1);
    let tile = "tile tile/0/003 was changed: hash 5, and not the log";
    assert_found(&rig.found(), &[tile, &line(770), &line(1_500)], "the same tile");
    // The line that is in the place of the hash that was changed.
    let rig = Rig::new();
    rig.put("audit.log", &lines);
    rig.tile("0/003", |bytes| bytes[2 * 32] ^= 1);
    let found = rig.found();
    assert_found(
        &found,
        &[
            "tile tile/0/003 was changed, and with it one or more of the lines audit.log:769",
            &line(770),
            &line(1_500),
        ],
        "the same entry",
    );
    // The line's leaf with it, by somebody who cannot change what is above.
    let rig = Rig::new();
    rig.put("audit.log", &lines[..1_000].iter().chain(&rig.lines[1_000..]).cloned().collect::<Vec<_>>());
    let leaf = leaf_hash(lines[770].as_bytes());
    rig.tile("0/003", |bytes| bytes[64..96].copy_from_slice(&leaf));
    let found = rig.found();
    assert_found(
        &found,
        &[
            "tile tile/0/003 was changed, and with it one or more of the lines audit.log:769.. to audit.log:1024",
        ],
        "both",
    );
}

#[test]
fn a_line_beside_a_tile_that_is_missing_is_named_as_far_as_can_be() {
    let rig = Rig::new();
    fs::remove_file(rig.path("tile/0/003")).unwrap();
    let mut lines = rig.lines.clone();
    lines[20].push(' ');
    rig.put("audit.log", &lines);
    let line = "audit.log:21 (byte .. is not what entry 20 was";
    assert_found(
        &rig.found(),
        &["tile/0/003: it is missing; what is below it is as it was", line],
        "elsewhere",
    );
    lines[800].push(' ');
    rig.put("audit.log", &lines);
    let lost = "tile/0/003: it is missing; whether the lines audit.log:769.. to audit.log:1024.. as they were is not known";
    assert_found(&rig.found(), &[lost, line], "in it");
}

#[test]
fn a_partial_tile_may_be_gone_where_a_later_state_has_it() {
    let rig = Rig::new();
    let mut wider = fs::read(rig.path("tile/0/007.p/208")).unwrap();
    fs::remove_file(rig.path("tile/0/007.p/208")).unwrap();
    wider.extend_from_slice(&[3; 32]);
    fs::write(rig.path("tile/0/007.p/209"), wider).unwrap();
    assert_found(&rig.found(), &[], "a wider one");
}

#[test]
fn a_forged_checkpoint_and_anchors_that_do_not_fit_are_named_and_no_tile() {
    let mut rig = Rig::new();
    rig.checkpoint.root[3] ^= 1;
    let root = "the root of the first 2000 entries is not that of the checkpoint";
    assert_found(&rig.found(), &[root], "another root");
    let mut rig = Rig::new();
    rig.anchors[1].root = "00".repeat(32);
    rig.anchors[3].origin = "other".to_owned();
    rig.anchors[3].root = "00".repeat(32);
    let kafka = "Kafka has another root of the first 300 lines (group/topic/0): log and tree were rewritten";
    let other = "Kafka has another root of the first 1999 lines by another tree, other";
    assert_found(&rig.found(), &[kafka, other], "other roots");
    rig.anchors = vec![Anchor { size: 2_001, ..rig.anchors[0].clone() }];
    let cut = "Kafka has an anchor of 2001 lines, and the log has 2000";
    assert_found(&rig.found(), &[cut], "more lines");
}
