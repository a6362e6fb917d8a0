//! Words of the command line to nodes: the selectors of a scenario file, resolved at once. Pure.

use crate::plan::{NodeIndex, Plan, ResolveError, Roles, Selector, resolve, resolve_ends};

/// What a node may be called besides its name and its zone.
const ROLES: [(&str, Selector); 4] = [
    ("leader", Selector::Leader),
    ("follower", Selector::Follower),
    ("random", Selector::Random),
    ("rest", Selector::Rest),
];

/// Why words are no nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WordError {
    /// Nobody has this name.
    #[error("there is no {word:?}: {known}")]
    Unknown {
        /// As it was typed.
        word: String,
        /// What there is.
        known: String,
    },
    /// A role where it makes no sense.
    #[error("{word} is no name, and who runs no more plays no role: name nodes or zones")]
    Role {
        /// As it was typed.
        word: String,
    },
    /// In two groups, or twice in one.
    #[error("{name} is named twice")]
    Twice {
        /// The node.
        name: String,
    },
    /// A group without a word.
    #[error("a group is empty: write names with commas between them, as in n1,n2 n3")]
    Empty,
    /// There is nothing between a node and itself.
    #[error("{name} is on both sides: there is no link from a node to itself")]
    Alone {
        /// The node.
        name: String,
    },
    /// Nobody plays the role now.
    #[error("{0}: look with `lab status`, and name nodes instead")]
    Resolve(ResolveError),
    /// A group of all nodes.
    #[error("nothing is left on the other side: all nodes are named")]
    NothingLeft,
}

impl WordError {
    /// Whether it may be different in a moment.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Resolve(_))
    }
}

/// The words of groups: `n1,n2` is one group of two.
pub(super) fn groups(arguments: &[String]) -> Vec<Vec<String>> {
    let words = |group: &String| group.split(',').map(|word| word.trim().to_owned()).collect();
    arguments.iter().map(words).collect()
}

/// The nodes that words select, of those that run where the words are roles.
///
/// # Errors
/// [`WordError`].
pub(super) fn nodes(
    words: &[String],
    plan: &Plan,
    roles: &Roles,
    draw: u32,
) -> Result<Vec<NodeIndex>, WordError> {
    let found = resolve(&[group(words, plan)?], roles, draw).map_err(WordError::Resolve)?.concat();
    once(&found, plan)?;
    Ok(found)
}

/// The nodes that names and zones select, whether they run or not.
///
/// # Errors
/// [`WordError`].
pub(super) fn named(words: &[String], plan: &Plan) -> Result<Vec<NodeIndex>, WordError> {
    let mut found = Vec::new();
    for word in words {
        for selector in selectors(word, plan)? {
            match selector {
                Selector::Node(node) => found.push(node),
                _ => return Err(WordError::Role { word: word.clone() }),
            }
        }
    }
    once(&found, plan)?;
    Ok(found)
}

/// The nodes of at least two groups that have no node in common. A single group has all other nodes on its other side.
///
/// # Errors
/// [`WordError`].
pub(super) fn sides(
    groups: &[Vec<String>],
    plan: &Plan,
    roles: &Roles,
    draw: u32,
) -> Result<Vec<Vec<NodeIndex>>, WordError> {
    let mut selected = groups.iter().map(|words| group(words, plan)).collect::<Result<Vec<_>, _>>()?;
    let is_rest = |group: &Vec<Selector>| group.contains(&Selector::Rest);
    if selected.len() == 1 && !selected.iter().any(is_rest) {
        selected.push(vec![Selector::Rest]);
    }
    if selected.len() == 1 {
        return Err(WordError::NothingLeft);
    }
    let sides = resolve(&selected, roles, draw).map_err(|error| match error {
        ResolveError::RestEmpty => WordError::NothingLeft,
        error => WordError::Resolve(error),
    })?;
    once(&sides.concat(), plan)?;
    Ok(sides)
}

/// The nodes at the two ends of links. One end may be a zone that holds the other.
///
/// # Errors
/// [`WordError`].
pub(super) fn ends(
    from: &[String],
    to: &[String],
    plan: &Plan,
    roles: &Roles,
    draw: u32,
) -> Result<[Vec<NodeIndex>; 2], WordError> {
    resolve_ends(&group(from, plan)?, &group(to, plan)?, roles, draw).map_err(|error| match error {
        ResolveError::NoLink(node) => WordError::Alone { name: plan.nodes[node.position()].name.clone() },
        ResolveError::RestEmpty => WordError::NothingLeft,
        error => WordError::Resolve(error),
    })
}

fn once(nodes: &[NodeIndex], plan: &Plan) -> Result<(), WordError> {
    let is_again = |(place, node): (usize, &NodeIndex)| nodes[..place].contains(node);
    match nodes.iter().enumerate().find(|(place, node)| is_again((*place, node))) {
        Some((_, node)) => Err(WordError::Twice { name: plan.nodes[node.position()].name.clone() }),
        None => Ok(()),
    }
}

fn group(words: &[String], plan: &Plan) -> Result<Vec<Selector>, WordError> {
    if words.iter().all(String::is_empty) {
        return Err(WordError::Empty);
    }
    let selected = words.iter().map(|word| selectors(word, plan));
    Ok(selected.collect::<Result<Vec<_>, _>>()?.concat())
}

/// A role, a node, or all nodes of a zone.
fn selectors(word: &str, plan: &Plan) -> Result<Vec<Selector>, WordError> {
    if let Some((_, role)) = ROLES.iter().find(|(role, _)| *role == word) {
        return Ok(vec![*role]);
    }
    let nodes = plan.node_indexes().zip(&plan.nodes);
    let is_meant = |node: &crate::plan::PlannedNode| node.name == word || node.zone.as_deref() == Some(word);
    let named: Vec<Selector> =
        nodes.filter(|(_, node)| is_meant(node)).map(|(index, _)| Selector::Node(index)).collect();
    if named.is_empty() {
        Err(WordError::Unknown { word: word.to_owned(), known: known(plan) })
    } else {
        Ok(named)
    }
}

/// Everything that a word may be.
fn known(plan: &Plan) -> String {
    let names: Vec<&str> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut zones: Vec<&str> = plan.nodes.iter().filter_map(|node| node.zone.as_deref()).collect();
    zones.sort_unstable();
    zones.dedup();
    let zones = if zones.is_empty() { String::new() } else { format!("; zones are {}", zones.join(", ")) };
    let roles = ROLES.map(|(role, _)| role).join(", ");
    format!("nodes are {}{zones}; roles are {roles}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn plan() -> Plan {
        let text = "name: words\nabout: Words.\nnodes: [{ id: n1, zone: eu }, { id: n2, zone: eu }, { id: n3, zone: us }]\n\
                    checks: [linearizable]\n";
        Plan::new(&Scenario::parse("words.yaml", text).unwrap(), 1)
    }

    fn roles(leader: Option<u16>) -> Roles {
        Roles { nodes_count: 3, leader: leader.map(NodeIndex), alive: (0..3).map(NodeIndex).collect() }
    }

    #[track_caller]
    fn check(arguments: &[&str], leader: Option<u16>, want: Result<&[&[u16]], &str>) {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let got = sides(&groups(&arguments), &plan(), &roles(leader), 7);
        let got = got.map_err(|error| error.to_string());
        let numbers = |side: &Vec<NodeIndex>| side.iter().map(|node| node.0).collect::<Vec<_>>();
        let got = got.map(|sides| sides.iter().map(numbers).collect::<Vec<_>>());
        let want = want.map(|sides| sides.iter().map(|side| side.to_vec()).collect::<Vec<_>>());
        assert_eq!(got, want.map_err(str::to_owned));
    }

    #[test]
    fn groups_are_those_of_a_partition() {
        check(&["n1,n2", "n3"], None, Ok(&[&[0, 1], &[2]]));
        check(&["eu", "us"], None, Ok(&[&[0, 1], &[2]]));
        check(&["n1", "n2", "n3"], None, Ok(&[&[0], &[1], &[2]]));
        check(&["leader", "rest"], Some(1), Ok(&[&[1], &[0, 2]]));
        // A single group is cut off from everybody else.
        check(&["leader"], Some(2), Ok(&[&[2], &[0, 1]]));
        check(&["n3"], None, Ok(&[&[2], &[0, 1]]));
    }

    #[test]
    fn words_that_are_no_nodes_say_what_there_is() {
        let known = "nodes are n1, n2, n3; zones are eu, us; roles are leader, follower, random, rest";
        check(&["n9"], None, Err(&format!("there is no \"n9\": {known}")));
        check(&["n1,n2", "n2"], None, Err("n2 is named twice"));
        check(&["eu", "n1"], None, Err("n1 is named twice"));
        check(
            &["n1", ""],
            None,
            Err("a group is empty: write names with commas between them, as in n1,n2 n3"),
        );
        check(&["eu,us"], None, Err("nothing is left on the other side: all nodes are named"));
        check(&["rest"], None, Err("nothing is left on the other side: all nodes are named"));
        let nobody = "no node is known to lead: look with `lab status`, and name nodes instead";
        check(&["leader"], None, Err(nobody));
    }

    #[test]
    fn ends_of_a_link_may_be_a_zone_and_a_node_in_it_but_never_one_node() {
        let words = |text: &str| groups(&[text.to_owned()]).concat();
        let check = |from, to, want: Result<[&[u16]; 2], &str>| {
            let got = ends(&words(from), &words(to), &plan(), &roles(Some(0)), 7);
            let want =
                want.map(|ends| ends.map(|end| end.iter().copied().map(NodeIndex).collect::<Vec<_>>()));
            assert_eq!(got.map_err(|error| error.to_string()), want.map_err(str::to_owned));
        };
        check("n1", "n2,n3", Ok([&[0], &[1, 2]]));
        check("eu", "leader", Ok([&[1], &[0]]));
        check("leader", "rest", Ok([&[0], &[1, 2]]));
        check("n1", "n1", Err("n1 is on both sides: there is no link from a node to itself"));
        check("eu,us", "rest", Err("nothing is left on the other side: all nodes are named"));
    }

    #[test]
    fn nodes_that_do_not_run_are_known_by_name_only() {
        let words = |word: &str| vec![word.to_owned()];
        assert_eq!(named(&words("eu"), &plan()), Ok(vec![NodeIndex(0), NodeIndex(1)]));
        let role = named(&words("leader"), &plan()).unwrap_err();
        assert_eq!(
            role.to_string(),
            "leader is no name, and who runs no more plays no role: name nodes or zones"
        );
        assert!(!role.is_passing());
        assert_eq!(nodes(&words("leader"), &plan(), &roles(Some(1)), 0), Ok(vec![NodeIndex(1)]));
    }
}
