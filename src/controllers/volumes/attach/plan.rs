//! What is to be attached to a node, and what is to be taken off it. Pure.
//!
//! Rules: upstream `pkg/controller/volume/attachdetach/reconciler`.

use std::collections::BTreeSet;

/// Seconds that a node which is not ready has for unmounting, before its volumes are taken off it all the same.
/// Upstream: `maxWaitForUnmountDuration`.
pub const UNMOUNT_SECONDS: i64 = 360;

/// The node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// It is not there any more.
    pub gone: bool,
    /// It answers.
    pub ready: bool,
    /// Somebody said that it is switched off.
    pub out_of_service: bool,
    /// Volumes that its kubelet uses.
    pub in_use: BTreeSet<String>,
    /// Volumes that are told to be attached.
    pub reported: BTreeSet<String>,
}

/// A volume that pods of the node want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// As the status of nodes names it.
    pub unique: String,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// Who attaches it.
    pub driver: String,
    /// Name that its attachment to this node has.
    pub attachment: String,
    /// Several nodes may have it at a time.
    pub shared: bool,
    /// Other nodes that have an attachment of it.
    pub elsewhere: Vec<String>,
}

/// An attachment to the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Name.
    pub name: String,
    /// The volume, as the status of nodes names it.
    pub unique: String,
    /// It is done.
    pub attached: bool,
    /// It is on its way out.
    pub deleting: bool,
    /// For how many seconds nobody has wanted it.
    pub unwanted_for: i64,
}

/// What is to be done, in this order: say what is attached, detach, attach.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the node's status is to say; none when it says so.
    pub report: Option<BTreeSet<String>>,
    /// Attachments to delete.
    pub detach: Vec<String>,
    /// Positions of the wanted volumes to attach.
    pub attach: Vec<usize>,
    /// Positions of those that other nodes have, and that only one may have.
    pub blocked: Vec<usize>,
    /// Attachments that nobody wants and that have to wait.
    pub waiting: Vec<String>,
    /// Seconds after which to look again.
    pub again: Option<i64>,
}

/// Decides.
pub fn plan(node: &Node, wanted: &[Wanted], attachments: &[Attachment]) -> Plan {
    let mut out = Plan::default();
    let mut report = BTreeSet::new();
    for a in attachments {
        let is_wanted = wanted.iter().any(|w| w.unique == a.unique);
        if a.deleting {
            continue;
        }
        if is_wanted || !may_go(node, a, &mut out) {
            report.extend(a.attached.then(|| a.unique.clone()));
        } else {
            out.detach.push(a.name.clone());
        }
    }
    for (i, w) in wanted.iter().enumerate().filter(|_| !node.gone) {
        // One that is on its way out has to be gone first.
        if attachments.iter().any(|a| a.name == w.attachment) {
            continue;
        }
        if w.shared || w.elsewhere.is_empty() {
            out.attach.push(i);
        } else {
            out.blocked.push(i);
        }
    }
    out.report = (!node.gone && report != node.reported).then_some(report);
    out
}

/// True when an attachment that nobody wants may go: its node does not use it, or will never say so.
fn may_go(node: &Node, a: &Attachment, out: &mut Plan) -> bool {
    if node.gone || node.out_of_service || !node.in_use.contains(&a.unique) {
        return true;
    }
    let left = UNMOUNT_SECONDS - a.unwanted_for;
    if !node.ready && left <= 0 {
        return true;
    }
    out.waiting.push(a.name.clone());
    if !node.ready {
        out.again = Some(out.again.map_or(left, |before| before.min(left)));
    }
    false
}

/// What a pod is told whose volume another node has. `pods` are those that use it there: namespace and name.
pub fn blocked_message(volume: &str, namespace: &str, pods: &[(String, String)]) -> String {
    let here: Vec<&str> = pods.iter().filter(|(ns, _)| ns == namespace).map(|(_, name)| name.as_str()).collect();
    let others = pods.len() - here.len();
    let why = match (here.is_empty(), others) {
        (true, 0) => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
        (true, n) => format!("Volume is already used by {n} pod(s) in different namespaces"),
        (false, 0) => format!("Volume is already used by pod(s) {}", here.join(", ")),
        (false, n) => {
            format!("Volume is already used by pod(s) {} and {n} pod(s) in different namespaces", here.join(", "))
        }
    };
    format!("Multi-Attach error for volume \"{volume}\" {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn set(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    fn ready() -> Node {
        Node { ready: true, ..Node::default() }
    }

    fn uses(node: Node) -> Node {
        Node { in_use: set(&["v"]), reported: set(&["v"]), ..node }
    }

    fn wants() -> Vec<Wanted> {
        vec![Wanted { unique: "v".into(), attachment: "a".into(), ..Wanted::default() }]
    }

    fn has(attached: bool) -> Vec<Attachment> {
        vec![Attachment { name: "a".into(), unique: "v".into(), attached, ..Attachment::default() }]
    }

    fn unwanted(seconds: i64) -> Vec<Attachment> {
        has(true).into_iter().map(|a| Attachment { unwanted_for: seconds, ..a }).collect()
    }

    fn on_its_way_out() -> Vec<Attachment> {
        has(true).into_iter().map(|a| Attachment { deleting: true, ..a }).collect()
    }

    fn elsewhere(shared: bool) -> Vec<Wanted> {
        wants().into_iter().map(|w| Wanted { shared, elsewhere: vec!["other".into()], ..w }).collect()
    }

    #[test_case(ready(), wants(), vec![], Plan { attach: vec![0], ..Plan::default() }; "wanted and not there")]
    #[test_case(ready(), wants(), has(false), Plan::default(); "under way")]
    #[test_case(ready(), wants(), has(true), Plan { report: Some(set(&["v"])), ..Plan::default() }; "attached and not said")]
    #[test_case(uses(ready()), wants(), has(true), Plan::default(); "attached and said")]
    #[test_case(ready(), wants(), on_its_way_out(), Plan::default(); "wanted again before it is gone")]
    #[test_case(Node { reported: set(&["v"]), ..ready() }, wants(), on_its_way_out(),
        Plan { report: Some(set(&[])), ..Plan::default() }; "what goes is not told of")]
    #[test_case(ready(), elsewhere(false), vec![], Plan { blocked: vec![0], ..Plan::default() }; "another node has it")]
    #[test_case(ready(), elsewhere(true), vec![], Plan { attach: vec![0], ..Plan::default() }; "several may have it")]
    #[test_case(uses(ready()), vec![], has(true), Plan { waiting: vec!["a".into()], ..Plan::default() }; "still mounted")]
    #[test_case(uses(ready()), vec![], unwanted(9999), Plan { waiting: vec!["a".into()], ..Plan::default() }; "a node that answers has all the time")]
    #[test_case(Node { reported: set(&["v"]), ..ready() }, vec![], has(true),
        Plan { report: Some(set(&[])), detach: vec!["a".into()], ..Plan::default() }; "unmounted")]
    #[test_case(uses(Node::default()), vec![], unwanted(100),
        Plan { waiting: vec!["a".into()], again: Some(260), ..Plan::default() }; "a silent node has six minutes")]
    #[test_case(uses(Node::default()), vec![], unwanted(360),
        Plan { report: Some(set(&[])), detach: vec!["a".into()], ..Plan::default() }; "and then it is taken off")]
    #[test_case(uses(Node { out_of_service: true, ..Node::default() }), vec![], unwanted(0),
        Plan { report: Some(set(&[])), detach: vec!["a".into()], ..Plan::default() }; "a node that is switched off")]
    #[test_case(Node { gone: true, ..Node::default() }, wants(), unwanted(0), Plan::default(); "a node that is gone gets nothing")]
    #[test_case(Node { gone: true, ..Node::default() }, vec![], unwanted(0), Plan { detach: vec!["a".into()], ..Plan::default() }; "and keeps nothing")]
    fn plans(node: Node, wanted: Vec<Wanted>, attachments: Vec<Attachment>, want: Plan) {
        assert_eq!(plan(&node, &wanted, &attachments), want);
    }

    #[test_case(&[], "Volume is already exclusively attached to one node and can't be attached to another")]
    #[test_case(&[("n", "a"), ("n", "b")], "Volume is already used by pod(s) a, b")]
    #[test_case(&[("m", "a")], "Volume is already used by 1 pod(s) in different namespaces")]
    #[test_case(&[("n", "a"), ("m", "b")], "Volume is already used by pod(s) a and 1 pod(s) in different namespaces")]
    fn messages(pods: &[(&str, &str)], want: &str) {
        let pods: Vec<_> = pods.iter().map(|(ns, name)| ((*ns).to_owned(), (*name).to_owned())).collect();
        assert_eq!(blocked_message("v", "n", &pods), format!("Multi-Attach error for volume \"v\" {want}"));
    }
}
