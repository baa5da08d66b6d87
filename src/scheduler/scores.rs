//! Scores that hold for the next pod: what a node gets for its resources changes only when the node does, and most pods come
//! in rows that ask for the same.
//!
//! **Invariant:** what is kept is what the plugins would say now.
//!
//! Upstream reuses the result of a pod for the next of the same signature (`OpportunisticBatching`); here it is the scores
//! of nodes that are reused, so that every pod still sees its own nodes.

use super::framework::Cycle;
use super::resources::Resources;

/// Scores of nodes for pods that ask for the same of the same scheduler.
#[derive(Debug, Default)]
pub struct Kept {
    profile: Box<str>,
    requests: Resources,
    non_zero: (i64, i64),
    /// By the node's index: its version when it was scored (0: never), and its scores with their weights.
    nodes: Vec<(u64, i64)>,
}

impl Kept {
    /// What all plugins that score by resources alone give these nodes, in their order, with their weights.
    pub fn totals(&mut self, cx: &Cycle<'_>, at: &[usize]) -> Vec<i64> {
        let same =
            (&self.profile, &self.requests, &self.non_zero) == (&cx.profile.name, &cx.pod.requests, &cx.pod.non_zero);
        if !same {
            self.nodes.clear();
            self.profile = cx.profile.name.clone();
            self.requests = cx.pod.requests.clone();
            self.non_zero = cx.pod.non_zero;
        }
        let nodes = cx.cluster.nodes();
        self.nodes.resize(nodes.len(), (0, 0));
        let changed: Vec<usize> =
            at.iter().copied().filter(|at| self.nodes[*at].0 != cx.cluster.version(*at)).collect();
        if !changed.is_empty() {
            changed.iter().for_each(|at| self.nodes[*at] = (cx.cluster.version(*at), 0));
            let infos: Vec<_> = changed.iter().map(|at| &nodes[*at]).collect();
            for row in cx.profile.rows.iter().filter(|r| r.weight > 0 && r.plugin.scores_by_resources()) {
                for (at, score) in changed.iter().zip(row.plugin.score(cx, &infos).unwrap_or_default()) {
                    self.nodes[*at].1 += row.weight * score;
                }
            }
        }
        at.iter().map(|at| self.nodes[*at].1).collect()
    }
}
