//! What pods and objects are measured to use: the three APIs of metrics, which others serve.
//!
//! Upstream: `podautoscaler/metrics/client`.

use jiff::SignedDuration;
use serde_json::Value;

use super::calc::{Figure, Figures};
use crate::api::meta::quantity::Quantity;
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{Client, Res};
use crate::controllers::common::pods::time;

/// Versions of the API of custom metrics, the newest first.
const CUSTOM: [&str; 2] = ["v1beta2", "v1beta1"];

/// Asks for metrics of one namespace.
pub struct Metrics<'a> {
    /// Who asks.
    pub client: &'a Client,
    /// The namespace.
    pub namespace: &'a str,
}

fn milli(v: Option<&Value>) -> Option<i64> {
    v?.as_str().and_then(|t| Quantity::parse(t).ok()).map(|q| q.milli_value())
}

fn figure(item: &Value, value: i64, window: SignedDuration) -> Figure {
    Figure { value, at: time(item.str_at("/timestamp")), window }
}

fn query(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs.iter().filter(|(_, v)| !v.is_empty()) {
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        crate::client::res::encode(&mut out, value);
    }
    out
}

fn part(text: &str) -> String {
    let mut out = String::new();
    crate::client::res::encode(&mut out, text);
    out
}

impl Metrics<'_> {
    /// What pods use of a resource; of one container where it is named.
    pub async fn resource(&self, resource: &str, container: Option<&str>, selector: &str) -> Result<Figures, String> {
        let query = query(&[("labelSelector", selector)]);
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods{query}", self.namespace);
        let list = self.client.read(path).await;
        let list = list.map_err(|e| format!("unable to fetch metrics from resource metrics API: {}", e.message))?;
        if list.items_at("/items").is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        let mut out = Figures::new();
        for item in list.items_at("/items") {
            let name = item.str_at("/metadata/name").unwrap_or_default();
            let window = item.str_at("/window").and_then(duration).unwrap_or_default();
            let containers = item.items_at("/containers").iter();
            let mut asked = containers.filter(|c| container.is_none_or(|wanted| c.str_at("/name") == Some(wanted)));
            // A pod of which a part is not measured is not measured.
            let sum: Option<i64> = asked.clone().map(|c| milli(c.get_at("/usage")?.get(resource))).sum();
            if container.is_some() && asked.next().is_none() {
                return Err(format!(
                    "failed to get container metrics: container {} not present in metrics for pod {}/{name}",
                    container.unwrap_or_default(),
                    self.namespace
                ));
            }
            if let Some(sum) = sum {
                out.insert(name.to_owned(), figure(item, sum, window));
            }
        }
        Ok(out)
    }

    /// A metric of pods.
    pub async fn pods(&self, metric: &str, selector: &str, metric_selector: &str) -> Result<Figures, String> {
        let query = query(&[("labelSelector", selector), ("metricLabelSelector", metric_selector)]);
        let path = format!("namespaces/{}/pods/*/{}{query}", self.namespace, part(metric));
        let list = self.custom(&path).await?;
        let one = |item: &Value| {
            let name = item.str_at("/describedObject/name")?.to_owned();
            let window = SignedDuration::from_secs(item.int_at("/windowSeconds").unwrap_or(60));
            Some((name, figure(item, milli(item.get("value"))?, window)))
        };
        Ok(list.items_at("/items").iter().filter_map(one).collect())
    }

    /// A metric of an object.
    pub async fn object(&self, metric: &str, res: &Res, name: &str, metric_selector: &str) -> Result<i64, String> {
        let query = query(&[("metricLabelSelector", metric_selector)]);
        let (name, metric) = (part(name), part(metric));
        let kind = if res.group.is_empty() { res.plural.to_string() } else { format!("{}.{}", res.plural, res.group) };
        let path = match (&*res.plural, res.namespaced) {
            ("namespaces", _) => format!("namespaces/{name}/metrics/{metric}{query}"),
            (_, true) => format!("namespaces/{}/{kind}/{name}/{metric}{query}", self.namespace),
            (_, false) => format!("{kind}/{name}/{metric}{query}"),
        };
        let list = self.custom(&path).await?;
        let value = list.items_at("/items").first().and_then(|item| milli(item.get("value")));
        value.ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
    }

    async fn custom(&self, path: &str) -> Result<Value, String> {
        let mut last = String::new();
        for version in CUSTOM {
            match self.client.read(format!("/apis/custom.metrics.k8s.io/{version}/{path}")).await {
                Ok(list) => return Ok(list),
                Err(error) => {
                    let again = error.reason == Reason::NotFound;
                    last = format!("unable to fetch metrics from custom metrics API: {}", error.message);
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// All values of a metric of something outside of the cluster, added up.
    pub async fn external(&self, metric: &str, selector: &str) -> Result<i64, String> {
        let query = query(&[("labelSelector", selector)]);
        let path =
            format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}{query}", self.namespace, part(metric));
        let list = self.client.read(path).await;
        let list = list.map_err(|e| format!("unable to fetch metrics from external metrics API: {}", e.message))?;
        if list.items_at("/items").is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(list.items_at("/items").iter().filter_map(|item| milli(item.get("value"))).sum())
    }
}

/// `1m30.5s`, as metrics say how long they were taken over.
fn duration(text: &str) -> Option<SignedDuration> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_go_writes_them() {
        assert_eq!(duration("30s"), Some(SignedDuration::from_secs(30)));
        assert_eq!(duration("1m0s"), Some(SignedDuration::from_secs(60)));
        assert_eq!(duration("15.5s"), Some(SignedDuration::from_millis(15_500)));
    }

    #[test]
    fn selectors_travel_encoded() {
        assert_eq!(query(&[("labelSelector", "a=b,c in (d)"), ("x", "")]), "?labelSelector=a%3Db%2Cc%20in%20%28d%29");
    }
}
