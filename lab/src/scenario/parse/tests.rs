use proptest::prelude::*;

use super::*;

/// The place of the part that `turns` lead to: an index, and whether it ends at a key.
#[track_caller]
fn check(text: &str, turns: &[(usize, Part)], want: (usize, usize)) {
    tree(text).unwrap_or_else(|(at, error)| panic!("{at:?}: {error}"));
    let path = turns.iter().fold(Path::default(), |path, &(index, part)| path.then(Turn { index, part }));
    let Position { line, column } = locate(text, &path);
    assert_eq!((line, column), want, "{turns:?} in:\n{text}");
}

const K: Part = Part::Key;
const V: Part = Part::Value;

#[test]
fn parts_of_block_style_are_located() {
    let text = "# a comment\na: 1\nbc:\n  d: x\n  e:\n    - p\n    - q: 2\n      r: 3\n";
    check(text, &[], (2, 1));
    check(text, &[(0, K)], (2, 1));
    check(text, &[(0, V)], (2, 4));
    check(text, &[(1, K)], (3, 1));
    check(text, &[(1, V)], (4, 3));
    check(text, &[(1, V), (0, V)], (4, 6));
    check(text, &[(1, V), (1, K)], (5, 3));
    check(text, &[(1, V), (1, V)], (6, 5));
    check(text, &[(1, V), (1, V), (0, V)], (6, 7));
    check(text, &[(1, V), (1, V), (1, V), (1, K)], (8, 7));
    check(text, &[(1, V), (1, V), (1, V), (1, V)], (8, 10));
}

#[test]
fn parts_of_flow_style_are_located() {
    let text = "f: { at: 5s, p: [[leader, follower], [rest]] }\n";
    check(text, &[(0, V)], (1, 4));
    check(text, &[(0, V), (0, V)], (1, 10));
    check(text, &[(0, V), (1, K)], (1, 14));
    check(text, &[(0, V), (1, V)], (1, 17));
    check(text, &[(0, V), (1, V), (0, V), (1, V)], (1, 27));
    check(text, &[(0, V), (1, V), (1, V)], (1, 38));
    check(text, &[(0, V), (1, V), (1, V), (0, V)], (1, 39));
}

#[test]
fn columns_are_characters_and_lines_may_end_with_crlf() {
    check("\"äöü\": { ß: 1, x: 2 }\r\nb: c\r\n", &[(0, V), (1, V)], (1, 19));
    check("\"äöü\": { ß: 1, x: 2 }\r\nb: c\r\n", &[(1, V)], (2, 4));
    check("a: 🦀\nb: [🦀, 1]\n", &[(1, V), (1, V)], (2, 8));
}

#[test]
fn doubled_keys_tags_quotes_and_text_blocks_are_located() {
    let text = "a: 1\na: !t 2\n'b': \"c\"\nd: >-\n  folded\n  text\ne:\nf: 1\n";
    check(text, &[(1, K)], (2, 1));
    check(text, &[(1, V)], (2, 4));
    check(text, &[(2, K)], (3, 1));
    check(text, &[(2, V)], (3, 6));
    check(text, &[(3, V)], (4, 4));
    // Nothing stands behind the colon.
    check(text, &[(4, V)], (7, 3));
    check(text, &[(5, K)], (8, 1));
}

#[test]
fn aliases_are_located_where_the_anchor_stands() {
    let text = "a: &x [1, 2]\nb: *x\nc: 3\n";
    check(text, &[(1, V), (1, V)], (1, 11));
    check(text, &[(2, V)], (3, 4));
}

#[test]
fn a_key_given_twice_is_kept_twice() {
    let one = || (Raw::Text("a".to_owned()), Raw::Integer(1));
    assert_eq!(tree("{ a: 1, a: 1 }"), Ok(Raw::Map(vec![one(), one()])));
}

#[test]
fn position_after_a_text() {
    assert_eq!(Position::after(""), Position::START);
    assert_eq!(Position::after("a\nbä"), Position { line: 2, column: 3 });
}

/// Every part of a tree, in the order of the file.
fn paths(raw: &Raw, path: &Path, found: &mut Vec<Path>) {
    found.push(path.clone());
    match raw {
        Raw::List(list) => {
            for (index, item) in list.iter().enumerate() {
                paths(item, &path.value(index), found);
            }
        }
        Raw::Map(pairs) => {
            for (index, (_, value)) in pairs.iter().enumerate() {
                found.push(path.key(index));
                paths(value, &path.value(index), found);
            }
        }
        _ => {}
    }
}

/// A YAML value in flow style, without aliases.
fn flow() -> impl Strategy<Value = String> {
    let leaf = prop_oneof!["[a-zä]{1,5}", "[0-9]{1,4}", Just("\"q q\"".to_owned()), Just("~".to_owned())];
    leaf.prop_recursive(4, 30, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            proptest::collection::vec(("[a-c]{1,2}", inner), 0..4).prop_map(|pairs| {
                let pairs: Vec<String> =
                    pairs.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{ {} }}", pairs.join(",\n  "))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn places_grow_in_the_order_of_the_paths(text in flow()) {
        let raw = tree(&text).unwrap();
        let mut found = Vec::new();
        paths(&raw, &Path::default(), &mut found);
        let places: Vec<Position> = found.iter().map(|path| locate(&text, path)).collect();
        prop_assert!(found.is_sorted(), "{found:?}");
        prop_assert!(places.is_sorted(), "{places:?} in {text}");
    }

    #[test]
    fn any_text_is_a_tree_or_an_error_inside_it(text in any::<String>()) {
        if let Err((at, _)) = tree(&text) {
            // Every line break of YAML 1.1, which the parser knows too.
            let lines_count = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
            prop_assert!(at.line <= lines_count + 1, "{at:?}");
        }
    }
}
