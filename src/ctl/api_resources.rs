//! `api-resources` and `api-versions`.

use super::cx::{Cx, Done, put};
use super::fail::fail;
use super::mapper::Resource;
use super::print::tab;
use crate::util::order::Arrange;

/// The resources of the server
#[derive(Debug, Clone, clap::Args)]
pub struct Resources {
    /// Only of this group
    #[arg(long)]
    api_group: Option<String>,
    /// Only with a namespace, or only without
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    namespaced: Option<bool>,
    /// Only with these verbs
    #[arg(long, value_delimiter = ',')]
    verbs: Vec<String>,
    /// Only of these categories
    #[arg(long, value_delimiter = ',')]
    categories: Vec<String>,
    /// wide or name
    #[arg(short, long, default_value = "", hide_default_value = true)]
    output: String,
    /// No line of headers
    #[arg(long)]
    no_headers: bool,
    /// name or kind
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// Taken for kubectl's sake; nothing is cached
    #[arg(long)]
    cached: bool,
}

/// The versions of the server's groups
#[derive(Debug, Clone, clap::Args)]
pub struct Versions {}

/// Runs `api-resources`.
pub async fn resources(cx: &Cx, args: Resources) -> Done {
    let wide = match args.output.as_str() {
        "" | "name" => false,
        "wide" => true,
        other => fail!("--output {other} is not available"),
    };
    let mut all: Vec<&Resource> = cx.mapper().await?.all().iter().filter(|r| wanted(r, &args)).collect();
    // Each resource once, at the version that the server prefers.
    let mut seen = std::collections::HashSet::new();
    all.retain(|r| seen.insert((&r.res.group, &r.res.plural)));
    match args.sort_by.as_str() {
        "name" => all.arrange_by(|a, b| a.res.plural.cmp(&b.res.plural)),
        "kind" => all.arrange_by(|a, b| a.res.kind.cmp(&b.res.kind)),
        "" => all.arrange_by(|a, b| (&a.res.group, &a.res.plural).cmp(&(&b.res.group, &b.res.plural))),
        _ => fail!("--sort-by accepts only name or kind"),
    }
    if args.output == "name" {
        let mut names: Vec<String> = all.iter().map(|r| r.qualified() + "\n").collect();
        names.dedup();
        return put(&names.concat());
    }
    let mut out = String::new();
    if !args.no_headers {
        out += "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND";
        out += if wide { "\tVERBS\tCATEGORIES\n" } else { "\n" };
    }
    for r in all {
        let (res, short) = (&r.res, r.short.join(","));
        out += &format!("{}\t{short}\t{}\t{}\t{}", res.plural, res.api_version(), res.namespaced, res.kind);
        out += &if wide { format!("\t{}\t{}\n", r.verbs.join(","), r.categories.join(",")) } else { "\n".into() };
    }
    put(&tab::align(&out, tab::GET))
}

fn wanted(r: &Resource, args: &Resources) -> bool {
    args.api_group.as_ref().is_none_or(|g| r.res.group == *g)
        && args.namespaced.is_none_or(|n| r.res.namespaced == n)
        && args.verbs.iter().all(|v| r.can(v))
        && args.categories.iter().all(|c| r.categories.contains(c))
}

/// Runs `api-versions`.
pub async fn versions(cx: &Cx) -> Done {
    let mut all = cx.mapper().await?.versions().to_vec();
    all.arrange();
    put(&all.into_iter().map(|v| v + "\n").collect::<String>())
}
