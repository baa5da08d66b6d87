//! One look at what a node and its pods have used, and what two looks say about the time between them. Pure.
//!
//! In: `/metrics/resource` of a kubelet. Out: [`Usage`], rates of CPU and the memory of the later look.
//!
//! Rules: metrics-server `pkg/scraper/client/resource/decode.go` and `pkg/storage/{node,pod}.go`.

use std::collections::HashMap;

use crate::util::order::Arrange;
use jiff::{SignedDuration, Timestamp};

/// Rates are over at least so long: shorter ones say nothing.
pub const LEAST_WINDOW: SignedDuration = SignedDuration::from_secs(1);
const NANO: f64 = 1e9;

/// CPU time and memory at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Point {
    /// CPU time used so far, nanoseconds.
    pub cpu_nanos: u64,
    /// Working set, bytes.
    pub memory: u64,
    /// When it began.
    pub started: Option<Timestamp>,
}

/// Containers by namespace and pod.
type Pods<T> = HashMap<(String, String), Vec<(String, T)>>;

/// What a node told in one answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// When it measured.
    pub at: Timestamp,
    node: Point,
    pods: Pods<Point>,
}

impl Sample {
    /// Reads the text form. None without figures of the node: there is nothing to build on.
    pub fn parse(text: &str) -> Option<Self> {
        let mut sample = Self::default();
        let mut known = false;
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some(read) = Line::parse(line) else { continue };
            match read.name {
                "node_cpu_usage_seconds_total" => {
                    (sample.node.cpu_nanos, sample.at, known) = (read.nanos(), read.at?, true);
                }
                "node_memory_working_set_bytes" => sample.node.memory = read.units(),
                "container_cpu_usage_seconds_total" => sample.container(&read)?.cpu_nanos = read.nanos(),
                "container_memory_working_set_bytes" => sample.container(&read)?.memory = read.units(),
                "container_start_time_seconds" => {
                    sample.container(&read)?.started = Timestamp::from_nanosecond(read.nanos().into()).ok();
                }
                _ => {}
            }
        }
        known.then_some(sample)
    }

    fn container(&mut self, line: &Line<'_>) -> Option<&mut Point> {
        let pod = (line.label("namespace")?.to_owned(), line.label("pod")?.to_owned());
        let (all, name) = (self.pods.entry(pod).or_default(), line.label("container")?);
        let at = all.iter().position(|(n, _)| n == name).unwrap_or_else(|| {
            all.push((name.to_owned(), Point::default()));
            all.len() - 1
        });
        all.get_mut(at).map(|(_, point)| point)
    }
}

/// A line of the text form: name, labels, value, time.
struct Line<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
    at: Option<Timestamp>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (head, rest) = match line.split_once('}') {
            Some((head, rest)) => (head, rest),
            None => line.split_once(' ')?,
        };
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        let mut figures = rest.split_ascii_whitespace();
        let value = figures.next()?.parse().ok()?;
        let at = figures.next().and_then(|ms| Timestamp::from_millisecond(ms.parse().ok()?).ok());
        Some(Self { name, labels, value, at })
    }

    /// Names of Kubernetes' hold nothing that the form would escape.
    fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then(|| value.trim_matches('"'))
        })
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn nanos(&self) -> u64 {
        (self.value * NANO).round() as u64
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn units(&self) -> u64 {
        self.value as u64
    }
}

/// What is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Nanoseconds of CPU time in a second.
    pub cpu_nanos: u64,
    /// Working set, bytes.
    pub memory: u64,
}

/// What a node and its pods used between two looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// The end of the time that was looked at.
    pub at: Timestamp,
    /// The node and the length of that time; none when it was started within.
    pub node: Option<(Used, SignedDuration)>,
    /// Pods of which every container is known, by namespace and name.
    pub pods: HashMap<(String, String), PodUsage>,
}

/// What a pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsage {
    /// Over so long.
    pub window: SignedDuration,
    /// By container.
    pub containers: Vec<(String, Used)>,
}

impl Usage {
    /// Of two looks at one node.
    pub fn between(first: &Sample, then: &Sample) -> Self {
        let node = used(Some(&first.node), &then.node, first.at, then.at);
        let pods = then.pods.iter().filter_map(|(pod, containers)| {
            let before = first.pods.get(pod);
            let mut window = then.at.duration_since(first.at);
            let mut all = Vec::with_capacity(containers.len());
            for (name, point) in containers {
                let old = before.and_then(|all| all.iter().find(|(n, _)| n == name)).map(|(_, p)| p);
                let (used, over) = used(old, point, first.at, then.at)?;
                window = window.min(over);
                all.push((name.clone(), used));
            }
            all.arrange_by(|a, b| a.0.cmp(&b.0));
            Some((pod.clone(), PodUsage { window, containers: all }))
        });
        Self { at: then.at, node, pods: pods.collect() }
    }
}

/// The rate between two points, or since the start of what was started (again) in between. None when that is too short, or
/// when nothing says where to count from.
fn used(old: Option<&Point>, new: &Point, first: Timestamp, then: Timestamp) -> Option<(Used, SignedDuration)> {
    let (base, from) = match (old, new.started) {
        (_, Some(started)) if started > first => (0, started),
        (Some(old), _) => (old.cpu_nanos, first),
        (None, _) => return None,
    };
    let window = then.duration_since(from);
    if window < LEAST_WINDOW {
        return None;
    }
    let nanos = i128::from(new.cpu_nanos.checked_sub(base)?) * 1_000_000_000 / window.as_nanos();
    Some((Used { cpu_nanos: u64::try_from(nanos).ok()?, memory: new.memory }, window))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn text(ms: i64, cpu: &str, start: &str) -> String {
        let pod = |name: &str| format!("{{container=\"{name}\",namespace=\"n\",pod=\"p\"}}");
        let (c, d) = (pod("c"), pod("d"));
        format!(
            "# HELP node_cpu_usage_seconds_total x\n# TYPE node_cpu_usage_seconds_total counter\n\
             container_cpu_usage_seconds_total{c} {cpu} {ms}\ncontainer_memory_working_set_bytes{c} 4096 {ms}\n\
             container_cpu_usage_seconds_total{d} 0 {ms}\ncontainer_start_time_seconds{c} {start} {ms}\n\
             node_cpu_usage_seconds_total {cpu} {ms}\nnode_memory_working_set_bytes 8.192e+03 {ms}\n\
             resource_scrape_error 0 {ms}\n"
        )
    }

    /// CPU of `c` in nanocores, and over how many milliseconds; of what was seen at 10 s and is seen at 14 s.
    #[test_case("1.5", "5", "2.5", "5" => Some((250_000_000, 4000)); "between")]
    #[test_case("1.5", "5", "0.5", "12" => Some((250_000_000, 2000)); "started again: since then")]
    #[test_case("1.5", "5", "0.5", "13.5" => None; "started just now")]
    #[test_case("1.5", "5", "0.5", "5" => None; "a counter that went back")]
    fn rates(cpu: &str, start: &str, later: &str, again: &str) -> Option<(u64, i128)> {
        let first = Sample::parse(&text(10_000, cpu, start)).unwrap();
        let then = Sample::parse(&text(14_000, later, again)).unwrap();
        let usage = Usage::between(&first, &then);
        assert_eq!(usage.at, at(14_000));
        let pod = usage.pods.get(&("n".into(), "p".into()))?;
        assert_eq!((pod.containers[0].1.memory, pod.containers[1].0.as_str()), (4096, "d"));
        Some((pod.containers[0].1.cpu_nanos, pod.window.as_millis()))
    }

    #[test]
    fn the_node_is_measured_and_what_cannot_be_read_is_left_out() {
        let (first, then) = (text(10_000, "1", "5"), text(12_000, "2", "5"));
        let parse = |t: &str| Sample::parse(t).unwrap();
        let usage = Usage::between(&parse(&first), &parse(&format!("what is this\n{then}")));
        let (used, window) = usage.node.unwrap();
        assert_eq!((used.cpu_nanos, used.memory, window.as_secs()), (500_000_000, 8192, 2));
        assert!(Sample::parse("container_memory_working_set_bytes 1 2\n").is_none());
    }

    #[test]
    fn a_new_container_counts_from_its_start_and_an_unknown_one_hides_its_pod() {
        let (first, then) = (Sample { at: at(10_000), ..Sample::default() }, text(14_000, "0.5", "12"));
        let mut then = Sample::parse(&then).unwrap();
        // `d` says nothing of its start.
        assert!(Usage::between(&first, &then).pods.is_empty());
        then.pods.values_mut().next().unwrap().retain(|(name, _)| name == "c");
        let usage = Usage::between(&first, &then);
        let pod = &usage.pods[&("n".into(), "p".into())];
        assert_eq!((pod.containers[0].1.cpu_nanos, pod.window.as_secs()), (250_000_000, 2));
    }
}
