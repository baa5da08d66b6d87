//! Questions to the authorizer: `authorizer.group('apps').resource('deployments').check('create').allowed()`.
//!
//! Rules: upstream `apiserver/pkg/cel/library/authz.go`.

use std::fmt;
use std::sync::Arc;

use super::funcs::{Res, Row, no_overload};
use super::value::Val;

/// What may be asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// A path that is no resource; the rest is then empty.
    pub path: Option<String>,
    /// The group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The part of the resource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object.
    pub name: String,
    /// What a collection is narrowed to, by fields.
    pub field_selector: String,
    /// And by labels.
    pub label_selector: String,
    /// The verb.
    pub verb: String,
    /// Who asks, where it is a ServiceAccount and not the user of the request: namespace and name.
    pub service_account: Option<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// It may.
    pub allowed: bool,
    /// Why, or why not.
    pub reason: String,
}

/// Who answers. Given by the caller.
pub trait Authorizer: Send + Sync {
    /// Answers a question.
    fn check(&self, question: &Question) -> Answer;
}

/// A question as far as it was asked, or its answer.
pub struct Authz {
    /// Who answers.
    pub authorizer: Arc<dyn Authorizer>,
    /// What was said so far.
    pub question: Question,
    /// How far.
    pub stage: Stage,
}

/// How far a question was asked.
#[derive(Debug, Clone)]
pub enum Stage {
    /// Nothing but who asks.
    Authorizer,
    /// A path.
    Path,
    /// A group.
    Group,
    /// A resource.
    Resource,
    /// It is answered.
    Decision(Answer),
}

impl fmt::Debug for Authz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authz").field("question", &self.question).field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Authz {
    /// The start of every question.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer, question: Question::default(), stage: Stage::Authorizer }
    }

    /// The name of the type.
    pub fn type_name(&self) -> Arc<str> {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
            Stage::Decision(_) => "kubernetes.authorization.Decision",
        }
        .into()
    }

    fn next(&self, stage: Stage, change: impl FnOnce(&mut Question)) -> Res {
        let mut question = self.question.clone();
        change(&mut question);
        Ok(Val::Authz(Arc::new(Self { authorizer: self.authorizer.clone(), question, stage })))
    }
}

/// FUNCTIONS of this library.
pub const ROWS: &[Row] = &[
    Row { name: "path", decls: &["Authorizer.(string) PathCheck"], run: path },
    Row { name: "group", decls: &["Authorizer.(string) GroupCheck"], run: group },
    Row { name: "serviceAccount", decls: &["Authorizer.(string,string) Authorizer"], run: service_account },
    Row { name: "resource", decls: &["GroupCheck.(string) ResourceCheck"], run: resource },
    Row { name: "subresource", decls: RESOURCE, run: |a| narrowed(a, |q, s| q.subresource = s) },
    Row { name: "namespace", decls: RESOURCE, run: |a| narrowed(a, |q, s| q.namespace = s) },
    Row { name: "name", decls: RESOURCE, run: |a| narrowed(a, |q, s| q.name = s) },
    Row { name: "fieldSelector", decls: RESOURCE, run: |a| narrowed(a, |q, s| q.field_selector = s) },
    Row { name: "labelSelector", decls: RESOURCE, run: |a| narrowed(a, |q, s| q.label_selector = s) },
    Row { name: "check", decls: &["PathCheck.(string) Decision", "ResourceCheck.(string) Decision"], run: check },
    Row { name: "allowed", decls: &["Decision.() bool"], run: |a| decision(a, |d| Val::Bool(d.allowed)) },
    Row { name: "reason", decls: &["Decision.() string"], run: |a| decision(a, |d| Val::from(d.reason.as_str())) },
    Row { name: "errored", decls: &["Decision.() bool"], run: |a| decision(a, |_| Val::Bool(false)) },
    Row { name: "error", decls: &["Decision.() string"], run: |a| decision(a, |_| Val::from("")) },
];

const RESOURCE: &[&str] = &["ResourceCheck.(string) ResourceCheck"];

fn path(a: &[Val]) -> Res {
    match a {
        [Val::Authz(z), Val::Str(p)] if matches!(z.stage, Stage::Authorizer) => {
            z.next(Stage::Path, |q| q.path = Some(p.to_string()))
        }
        _ => no_overload(),
    }
}

fn group(a: &[Val]) -> Res {
    match a {
        [Val::Authz(z), Val::Str(g)] if matches!(z.stage, Stage::Authorizer) => {
            z.next(Stage::Group, |q| q.group = g.to_string())
        }
        _ => no_overload(),
    }
}

fn service_account(a: &[Val]) -> Res {
    match a {
        [Val::Authz(z), Val::Str(ns), Val::Str(name)] if matches!(z.stage, Stage::Authorizer) => {
            z.next(Stage::Authorizer, |q| q.service_account = Some((ns.to_string(), name.to_string())))
        }
        _ => no_overload(),
    }
}

fn resource(a: &[Val]) -> Res {
    match a {
        [Val::Authz(z), Val::Str(r)] if matches!(z.stage, Stage::Group) => {
            z.next(Stage::Resource, |q| q.resource = r.to_string())
        }
        _ => no_overload(),
    }
}

fn narrowed(a: &[Val], set: fn(&mut Question, String)) -> Res {
    match a {
        [Val::Authz(z), Val::Str(s)] if matches!(z.stage, Stage::Resource) => {
            z.next(Stage::Resource, |q| set(q, s.to_string()))
        }
        _ => no_overload(),
    }
}

fn check(a: &[Val]) -> Res {
    match a {
        [Val::Authz(z), Val::Str(verb)] if matches!(z.stage, Stage::Path | Stage::Resource) => {
            let question = Question { verb: verb.to_string(), ..z.question.clone() };
            let answer = z.authorizer.check(&question);
            z.next(Stage::Decision(answer), |q| *q = question)
        }
        _ => no_overload(),
    }
}

fn decision(a: &[Val], get: fn(&Answer) -> Val) -> Res {
    match a {
        [Val::Authz(z)] => match &z.stage {
            Stage::Decision(answer) => Ok(get(answer)),
            _ => no_overload(),
        },
        _ => no_overload(),
    }
}
