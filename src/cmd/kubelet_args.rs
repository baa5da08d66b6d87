//! `--kubelet-arg NAME=VALUE`: the flags of upstream's kubelet that this one has.

use anyhow::{Context, anyhow, bail};
use jiff::SignedDuration;

use crate::kubelet::config::Config;
use crate::kubelet::eviction::{Soft, Thresholds};
use crate::util::words::nearest;

type Set = fn(&mut Config, &str) -> anyhow::Result<()>;

/// All of them. Add yours here.
const ARGS: [(&str, Set); 9] = [
    ("eviction-hard", |c, v| {
        c.eviction = Thresholds::parse(v).map_err(anyhow::Error::msg)?;
        Ok(())
    }),
    ("eviction-soft", |c, v| {
        c.eviction_soft.thresholds = Thresholds::parse(v).map_err(anyhow::Error::msg)?;
        Ok(())
    }),
    ("eviction-soft-grace-period", |c, v| {
        c.eviction_soft.grace = Soft::parse_grace(v).map_err(anyhow::Error::msg)?;
        Ok(())
    }),
    ("eviction-max-pod-grace-period", |c, v| {
        c.eviction_soft.max_pod_grace = v.parse().ok().filter(|n| *n >= 0).context("it is no number of seconds")?;
        Ok(())
    }),
    ("image-gc-high-threshold", |c, v| {
        c.image_gc.high_percent = percent(v)?;
        Ok(())
    }),
    ("image-gc-low-threshold", |c, v| {
        c.image_gc.low_percent = percent(v)?;
        Ok(())
    }),
    ("minimum-image-ttl-duration", |c, v| {
        c.image_gc.min_age = v.parse::<SignedDuration>().map_err(|_| anyhow!("it is no duration like 2m"))?;
        Ok(())
    }),
    ("root-dir", |c, v| {
        c.root_dir = Some(v.into()).filter(|p: &std::path::PathBuf| p.is_absolute());
        c.root_dir.is_some().then_some(()).context("it is no absolute path")
    }),
    ("max-pods", |c, v| {
        c.max_pods = v.parse().context("it is no number")?;
        Ok(())
    }),
];

fn percent(text: &str) -> anyhow::Result<u8> {
    match text.parse() {
        Ok(p) if p <= 100 => Ok(p),
        _ => bail!("it is no number from 0 to 100"),
    }
}

/// Arguments that are known to be good.
#[derive(Debug, Clone, Default)]
pub(super) struct KubeletArgs(Vec<String>);

/// Checks the arguments.
pub(super) fn parse(args: &[String]) -> anyhow::Result<KubeletArgs> {
    // Nothing in it depends on what stands there before.
    apply(&mut Config::new("", ""), args)?;
    Ok(KubeletArgs(args.to_vec()))
}

impl KubeletArgs {
    /// Puts them into the kubelet's configuration.
    pub(super) fn apply(&self, config: &mut Config) {
        if let Err(e) = apply(config, &self.0) {
            tracing::error!("{e:#}");
        }
    }
}

fn apply(config: &mut Config, args: &[String]) -> anyhow::Result<()> {
    for arg in args {
        let (name, value) = arg.split_once('=').with_context(|| format!("--kubelet-arg {arg:?} is not NAME=VALUE"))?;
        let Some((_, set)) = ARGS.iter().find(|(n, _)| *n == name) else {
            let near = nearest(ARGS.iter().map(|(n, _)| *n), name);
            bail!("--kubelet-arg {name:?} is not known; did you mean {near:?}?");
        };
        set(config, value).with_context(|| format!("--kubelet-arg {arg:?}"))?;
    }
    if config.image_gc.low_percent > config.image_gc.high_percent {
        bail!("--kubelet-arg image-gc-low-threshold is above image-gc-high-threshold");
    }
    config.eviction_soft.check().map_err(|e| anyhow!("--kubelet-arg {e}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ones_are_set_and_others_refused() {
        let of = |args: &[&str]| {
            let mut config = Config::new("n", "/d");
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            apply(&mut config, &args).map(|()| config).map_err(|e| format!("{e:#}"))
        };
        let set = of(&["max-pods=9", "image-gc-high-threshold=90", "minimum-image-ttl-duration=1m", "eviction-hard="])
            .unwrap();
        assert_eq!((set.max_pods, set.image_gc.high_percent, set.image_gc.min_age.as_secs()), (9, 90, 60));
        assert!(set.eviction.0.is_empty());
        assert!(of(&["max-pod=9"]).unwrap_err().ends_with("did you mean \"max-pods\"?"));
        assert!(of(&["max-pods"]).is_err() && of(&["image-gc-high-threshold=101"]).is_err());
        assert!(of(&["image-gc-low-threshold=90"]).unwrap_err().contains("is above"));
        let soft = ["eviction-soft=memory.available<1Gi", "eviction-soft-grace-period=memory.available=90s"];
        assert_eq!(
            of(&[&soft[..], &["eviction-max-pod-grace-period=5"]].concat()).unwrap().eviction_soft.max_pod_grace,
            5
        );
        assert!(of(&soft[..1]).unwrap_err().contains("memory.available needs its eviction-soft-grace-period"));
        assert!(of(&["eviction-hard=memory<1Gi"]).unwrap_err().contains("memory.available"));
    }
}
