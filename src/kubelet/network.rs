//! Names and addresses inside a pod: host name, `/etc/hosts`, resolv.conf.
//!
//! Rules: upstream `kubelet_pods.GeneratePodHostNameAndDomain`, `managedHostsFileContent` and `network/dns`.

use super::pod::PodView;

/// Longest host name the kernel takes, bytes.
const HOSTNAME_MAX: usize = 64;
/// Longest label a host name is cut to, bytes.
const LABEL_MAX: usize = 63;
const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// The pod's name and domain in the cluster's DNS; the domain is empty without a subdomain.
pub fn name_and_domain(pod: &PodView, cluster_domain: &str) -> (String, String) {
    if let Some(name) = &pod.spec.hostname_override {
        return (name.clone(), String::new());
    }
    let name = match &pod.spec.hostname {
        Some(name) if !name.is_empty() => name.clone(),
        _ => {
            let mut end = pod.name.len().min(LABEL_MAX);
            while !pod.name.is_char_boundary(end) {
                end -= 1;
            }
            pod.name[..end].trim_end_matches(['-', '.']).to_owned()
        }
    };
    let domain = match pod.spec.subdomain.as_deref() {
        Some(sub) if !sub.is_empty() => format!("{sub}.{}.svc.{cluster_domain}", pod.namespace),
        _ => String::new(),
    };
    (name, domain)
}

/// What `hostname` says inside; empty with host network, where the node's name is not the pod's to set.
pub fn hostname(pod: &PodView, cluster_domain: &str) -> Result<String, String> {
    if pod.host_network() {
        return Ok(String::new());
    }
    let (name, domain) = name_and_domain(pod, cluster_domain);
    if pod.spec.set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(name);
    }
    let fqdn = format!("{name}.{domain}");
    if fqdn.len() > HOSTNAME_MAX {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({HOSTNAME_MAX} characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

/// `/etc/hosts` of the pod. `host_file` is the node's, used with host network.
pub fn hosts_file(pod: &PodView, ips: &[String], cluster_domain: &str, host_file: &str) -> String {
    let mut out = if pod.host_network() {
        format!("{HOST_HEADER}{host_file}")
    } else {
        let (name, domain) = name_and_domain(pod, cluster_domain);
        let names = if domain.is_empty() { name } else { format!("{name}.{domain}\t{name}") };
        let own: String = ips.iter().map(|ip| format!("{ip}\t{names}\n")).collect();
        format!("{HEADER}{LOCAL}{own}")
    };
    let aliases = pod.spec.host_aliases.iter().flatten();
    let lines: Vec<String> =
        aliases.map(|a| format!("{}\t{}\n", a.ip, a.hostnames.clone().unwrap_or_default().join("\t"))).collect();
    if !lines.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        out.push_str(&lines.concat());
    }
    out
}

/// A resolver configuration; all empty leaves it to the runtime, which copies the host's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Dns {
    /// From the texts of resolv.conf files: the first one with a server that a pod can reach, which is none on this
    /// machine's loopback; else the first one.
    pub fn of_host(texts: impl Iterator<Item = String>) -> Self {
        let all: Vec<Self> = texts.map(|text| Self::parse(&text)).collect();
        let is_outside = |server: &String| server.parse::<std::net::IpAddr>().is_ok_and(|ip| !ip.is_loopback());
        let reachable = all.iter().find(|dns| dns.servers.iter().any(is_outside)).cloned();
        match reachable {
            Some(mut dns) => {
                dns.servers.retain(is_outside);
                dns
            }
            None => all.into_iter().next().unwrap_or_default(),
        }
    }

    /// From the text of a resolv.conf.
    pub fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
                Some("search") => dns.searches = words.filter(|w| *w != ".").map(str::to_owned).collect(),
                Some("options") => dns.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        dns
    }
}

/// The pod's resolver. `host` is the node's resolv.conf, `cluster` the addresses of the cluster's DNS.
pub fn dns(pod: &PodView, host: &Dns, cluster: &[String], domain: &str) -> Dns {
    let policy = pod.spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let in_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    } && !cluster.is_empty();
    let mut dns = if policy == "None" {
        Dns::default()
    } else if in_cluster {
        let mut searches = vec![format!("{}.svc.{domain}", pod.namespace), format!("svc.{domain}"), domain.to_owned()];
        searches.extend(host.searches.iter().filter(|s| !s.ends_with(domain)).cloned());
        Dns { servers: cluster.to_vec(), searches, options: vec!["ndots:5".into()] }
    } else {
        host.clone()
    };
    if let Some(own) = &pod.spec.dns_config {
        add(&mut dns.servers, own.nameservers.iter().flatten().cloned());
        add(&mut dns.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    dns
}

fn add(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use test_case::test_case;

    fn pod(mut spec: Value) -> PodView {
        spec["containers"] = json!([]);
        PodView::from_value(json!({"metadata": {"name": "web-0", "namespace": "n"}, "spec": spec})).unwrap()
    }

    #[test_case(json!({}), "web-0"; "the name")]
    #[test_case(json!({"hostname": "h", "subdomain": "s"}), "h"; "its own")]
    #[test_case(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}), "h.s.n.svc.cluster.local"; "whole")]
    #[test_case(json!({"hostNetwork": true}), ""; "the node's is left alone")]
    fn hostnames(spec: Value, want: &str) {
        assert_eq!(hostname(&pod(spec), "cluster.local").unwrap(), want);
    }

    #[test]
    fn a_long_whole_name_is_refused() {
        let spec = json!({"hostname": "h".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true});
        assert!(hostname(&pod(spec), "cluster.local").unwrap_err().contains("too long"));
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let p = pod(json!({"subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts_file(&p, &["10.0.0.1".into()], "cluster.local", "");
        assert!(text.contains("\n10.0.0.1\tweb-0.s.n.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
        let host = hosts_file(&pod(json!({"hostNetwork": true})), &[], "cluster.local", "127.0.0.1 x\n");
        assert_eq!(host, format!("{HOST_HEADER}127.0.0.1 x\n"));
    }

    #[test_case(json!({}), &["10.43.0.10"], &["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"], &["ndots:5"]; "cluster first")]
    #[test_case(json!({"hostNetwork": true}), &["9.9.9.9"], &["lan"], &["rotate"]; "host network")]
    #[test_case(json!({"dnsPolicy": "Default"}), &["9.9.9.9"], &["lan"], &["rotate"]; "default")]
    #[test_case(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}}), &["1.1.1.1"], &[], &["ndots:2"]; "none")]
    #[test_case(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]}}), &["10.43.0.10"],
        &["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"], &["ndots:2", "debug"]; "options win")]
    fn resolvers(spec: Value, servers: &[&str], searches: &[&str], options: &[&str]) {
        let host = Dns::parse("# x\nnameserver 9.9.9.9\nsearch lan\noptions rotate\n");
        let got = dns(&pod(spec), &host, &["10.43.0.10".into()], "cluster.local");
        assert_eq!(
            (&*got.servers, &*got.searches, &*got.options),
            (&*owned(servers), &*owned(searches), &*owned(options))
        );
    }

    #[test_case(&["nameserver 9.9.9.9\n", "nameserver 8.8.8.8\n"], &["9.9.9.9"]; "the first")]
    #[test_case(&["nameserver 127.0.0.53\n", "nameserver 8.8.8.8\n"], &["8.8.8.8"]; "a stub on loopback is passed over")]
    #[test_case(&["nameserver 127.0.0.1\nnameserver 9.9.9.9\n"], &["9.9.9.9"]; "what no pod reaches is left out")]
    #[test_case(&["nameserver 127.0.0.53\n"], &["127.0.0.53"]; "nothing better")]
    #[test_case(&[], &[]; "nothing at all")]
    fn the_hosts_resolver(texts: &[&str], want: &[&str]) {
        assert_eq!(Dns::of_host(texts.iter().map(|t| (*t).to_owned())).servers, owned(want));
    }

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }
}
