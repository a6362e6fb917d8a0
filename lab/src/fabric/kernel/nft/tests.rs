//! What nft is handed, and what it answers.

use super::*;

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

#[test]
fn rules_of_a_fabric_are_those_that_nft_lists() {
    let machines = [("port0".to_owned(), mac(0)), ("port1".to_owned(), mac(1))];
    let rules = base(&[machines.to_vec()]);
    let object = |position: usize| &rules["nftables"][position]["add"];
    assert_eq!(object(0), &json!({ "table": { "family": "bridge", "name": "aspen" } }));
    assert_eq!(object(2)["set"]["stmt"], json!([{ "counter": null }]), "each cut counts what it swallows");
    let sender = json!({ "payload": { "protocol": "ether", "field": "saddr" } });
    let pair = json!({ "concat": [sender, { "meta": { "key": "oifname" } }] });
    let cut = json!([{ "match": { "left": pair, "right": "@cuts", "op": "==" } }, { "drop": null }]);
    assert_eq!(object(5)["rule"]["expr"], cut);
    let classes = json!({ "set": [["02:00:00:00:00:00", "1:1"], ["02:00:00:00:00:01", "1:2"]] });
    let value = json!({ "map": { "key": sender, "data": classes } });
    let classify = json!([{ "mangle": { "key": { "meta": { "key": "priority" } }, "value": value } }]);
    assert_eq!(object(6)["rule"]["expr"], classify);
}

#[test]
fn frames_are_copied_when_a_number_is_below_their_share() {
    let copying = Copying {
        name: "0>1".to_owned(),
        sender: 0,
        from: "port0".to_owned(),
        receiver: mac(1),
        to: "port1".to_owned(),
        per_million: 50_000,
    };
    let rules = |copying: &Copying| {
        let mut batch = Batch::new();
        copies::rewrite(&mut batch, std::slice::from_ref(copying));
        document(batch)["nftables"].as_array().unwrap().clone()
    };
    let written = rules(&copying);
    let drawn = json!({ "numgen": { "mode": "random", "mod": 1_000_000, "offset": 0 } });
    let expressions = json!([
        { "match": { "left": { "payload": { "protocol": "ether", "field": "daddr" } }, "right": "02:00:00:00:00:01", "op": "==" } },
        { "match": { "left": drawn, "right": 50_000, "op": "<" } },
        { "mangle": { "key": { "meta": { "key": "priority" } }, "value": "1:1" } },
        { "counter": { "packets": 0, "bytes": 0 } },
        { "dup": { "addr": "port1" } },
    ]);
    assert_eq!(written[4]["add"]["rule"]["expr"], expressions);
    assert_eq!(written.len(), 6);
    // Every frame: nothing is drawn.
    let all = rules(&Copying { per_million: 1_000_000, ..copying });
    assert_eq!(all[4]["add"]["rule"]["expr"].as_array().unwrap().len(), 4);
}

/// As nft 1.0.6 answers.
#[test]
fn answers_of_nft_are_read() {
    let cuts = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"set": {"family": "bridge", "name": "cuts", "table": "aspen", "type": ["ether_addr", "ifname"], "handle": 4, "elem":
        [{"elem": {"val": {"concat": ["02:00:00:00:00:00", "port1"]}, "counter": {"packets": 7, "bytes": 896}}}],
        "stmt": [{"counter": null}]}}]}"#;
    assert_eq!(counts(cuts).unwrap(), [((mac(0), "port1".to_owned()), 7)].into());
    let none = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"set": {"family": "bridge", "name": "cuts", "table": "aspen", "type": ["ether_addr", "ifname"], "handle": 4,
        "stmt": [{"counter": null}]}}]}"#;
    assert_eq!(counts(none).unwrap(), BTreeMap::new());
    let rule = |who: &str, packets: u32| {
        format!(
            r#"{{"rule": {{"family": "netdev", "table": "aspen", "chain": "port0", "handle": 2, "comment": "0>1", "expr": [{who},
            {{"match": {{"op": "<", "left": {{"numgen": {{"mode": "random", "mod": 1000000, "offset": 0}}}}, "right": 500000}}}},
            {{"mangle": {{"key": {{"meta": {{"key": "priority"}}}}, "value": "1:1"}}}},
            {{"counter": {{"packets": {packets}, "bytes": 64896}}}}, {{"dup": {{"addr": "port1"}}}}]}}}}"#
        )
    };
    let one = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ether", "field": "daddr"}}, "right": "02:00:00:00:00:01"}}"#;
    let all = r#"{"match": {"op": "==", "left": {"meta": {"key": "pkttype"}}, "right": {"set": ["broadcast", "multicast"]}}}"#;
    let copied = format!(r#"{{"nftables": [{}, {}]}}"#, rule(one, 507), rule(all, 3));
    let want = Copies { made: 510, per_million: 500_000 };
    assert_eq!(copies::counts(&copied).unwrap(), [("0>1".to_owned(), want)].into());
    assert!(counts("no json").is_err());
}
