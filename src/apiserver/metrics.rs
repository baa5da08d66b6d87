//! The server's own figures, and those that others publish, in Prometheus' text form.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use parking_lot::RwLock;

/// Renders somebody's figures.
pub type Source = Box<dyn Fn() -> String + Send + Sync>;

/// Counters of requests.
#[derive(Default)]
pub struct Metrics {
    /// Answers by the hundreds of their code, from 1xx.
    answers: [AtomicU64; 5],
    sources: RwLock<Vec<Source>>,
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&self, code: StatusCode) {
        let class = usize::from(code.as_u16() / 100).clamp(1, 5) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds figures of others.
    pub fn publish(&self, source: Source) {
        self.sources.write().push(source);
    }

    /// All of it.
    pub fn render(&self) -> String {
        let name = "apiserver_request_total";
        let mut out = format!("# HELP {name} Requests answered, by the class of their code.\n# TYPE {name} counter\n");
        for (class, count) in self.answers.iter().enumerate() {
            let _ = writeln!(out, "{name}{{code=\"{}xx\"}} {}", class + 1, count.load(Ordering::Relaxed));
        }
        for source in self.sources.read().iter() {
            out.push_str(&source());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_class_and_shows_others() {
        let m = Metrics::default();
        m.answered(StatusCode::NOT_FOUND);
        m.publish(Box::new(|| "x 1\n".into()));
        let text = m.render();
        assert!(text.contains("apiserver_request_total{code=\"4xx\"} 1\n") && text.ends_with("x 1\n"));
    }
}
