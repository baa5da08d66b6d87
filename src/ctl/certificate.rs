//! `certificate`: an answer to a request for a certificate.

use serde_json::{Value, json};

use super::builder::{Info, Query};
use super::cx::{Call, Cx, Done};
use super::fail::{Failure, fail};
use super::files::FileFlags;
use super::print::{DryRun, PrintFlags};
use crate::api::status::Reason;
use crate::api::value::ValueExt;

/// Attempts when others write the request at the same time.
const ATTEMPTS: usize = 10;

/// Answer requests for certificates
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Let the signer sign
    Approve(Flags),
    /// Keep the signer from signing
    Deny(Flags),
}

#[derive(Debug, Clone, clap::Args)]
struct Flags {
    /// Names of CertificateSigningRequests
    names: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    /// Answer again what was answered already
    #[arg(long)]
    force: bool,
}

/// An answer.
struct Answer {
    condition: &'static str,
    opposite: &'static str,
    reason: &'static str,
    message: &'static str,
    done: &'static str,
}

const APPROVE: Answer = Answer {
    condition: "Approved",
    opposite: "Denied",
    reason: "KubectlApprove",
    message: "This CSR was approved by kubectl certificate approve.",
    done: "approved",
};
const DENY: Answer = Answer {
    condition: "Denied",
    opposite: "Approved",
    reason: "KubectlDeny",
    message: "This CSR was denied by kubectl certificate deny.",
    done: "denied",
};

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    let (flags, answer) = match &args.what {
        What::Approve(flags) => (flags, &APPROVE),
        What::Deny(flags) => (flags, &DENY),
    };
    if flags.names.is_empty() && flags.files.is_empty() {
        fail!("one or more CSRs must be specified as <name> or -f <filename>");
    }
    let mut words = vec!["certificatesigningrequests".to_owned()];
    words.extend(flags.names.iter().cloned());
    let args = if flags.names.is_empty() { &[] } else { &words[..] };
    for info in (Query { args, files: Some(&flags.files), fetch: true, ..Query::default() }).infos(cx).await? {
        if let Err(failure) = one(cx, &info, flags, answer).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, flags: &Flags, answer: &Answer) -> Done {
    let mut request = info.object.clone();
    for attempt in 1.. {
        match answered(&request, answer, flags.force)? {
            None => break,
            Some(wanted) => {
                match cx.call(Call::new(http::Method::PUT, info.path(Some("approval"))).body(&wanted)).await {
                    Ok(_) => break,
                    Err(failure) if failure.reason() == Some(Reason::Conflict) && attempt < ATTEMPTS => {
                        request = info.fetch(cx).await?;
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
    }
    flags.print.done(&info.resource, &request, answer.done, DryRun::None)
}

/// The request with the answer; none where it has it already.
fn answered(request: &Value, answer: &Answer, force: bool) -> Done<Option<Value>> {
    let has = |kind: &str| request.items_at("/status/conditions").iter().any(|c| c["type"] == kind);
    if has(answer.opposite) {
        return Err(Failure::Plain(format!(
            "certificate signing request {:?} is already {}",
            request.str_at("/metadata/name").unwrap_or_default(),
            answer.opposite
        )));
    }
    if has(answer.condition) && !force {
        return Ok(None);
    }
    let now = crate::util::clock::rfc3339(jiff::Timestamp::now());
    let mut conditions = request.items_at("/status/conditions").to_vec();
    conditions.retain(|c| c["type"] != answer.condition);
    conditions.push(json!({"type": answer.condition, "status": "True", "reason": answer.reason,
        "message": answer.message, "lastUpdateTime": now}));
    let mut wanted = request.clone();
    wanted.set_at("/status/conditions", conditions);
    Ok(Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_once_and_not_turned() {
        let request = json!({"metadata": {"name": "x"}});
        let approved = answered(&request, &APPROVE, false).unwrap().unwrap();
        assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
        assert!(answered(&approved, &APPROVE, false).unwrap().is_none());
        assert!(answered(&approved, &APPROVE, true).unwrap().is_some());
        assert!(answered(&approved, &DENY, true).is_err());
    }
}
