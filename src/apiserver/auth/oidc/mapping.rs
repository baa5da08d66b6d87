//! From the claims of a token to a user. Pure.
//!
//! Rules: upstream `apiserver/plugin/pkg/authenticator/token/oidc`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::{ConfigError, only, wrong};
use crate::api::cel::{Budget, Env, Named, Program, Type, Val, cost};
use crate::api::user::UserInfo;
use crate::api::value::ValueExt;
use crate::apiserver::auth::authn::AuthError;
use crate::apiserver::auth::review::user_value;

/// An expression over `claims` or `user`.
#[derive(Debug)]
struct Expression {
    text: String,
    program: Program,
}

/// Where a text, or a list of them, comes from.
#[derive(Debug)]
enum Source {
    Claim { name: String, prefix: String },
    Expression(Expression),
}

/// What must be true of the claims.
#[derive(Debug)]
enum ClaimRule {
    Equals { claim: String, value: String },
    Holds { expression: Expression, message: String },
}

/// What an issuer's claims mean.
#[derive(Debug)]
pub struct Mapping {
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Expression)>,
    claim_rules: Vec<ClaimRule>,
    user_rules: Vec<(Expression, String)>,
}

fn claims_env() -> Env {
    Env::new().with("claims", Type::map(Type::String, Type::Dyn))
}

fn user_env() -> Env {
    let fields = [
        ("username", Type::String),
        ("uid", Type::String),
        ("groups", Type::list(Type::String)),
        ("extra", Type::map(Type::String, Type::list(Type::String))),
    ];
    Env::new().with("user", Type::object("kubernetes.UserInfo", fields))
}

impl Expression {
    fn compile(text: &str, env: &Env, at: &str, decides: bool) -> Result<Self, ConfigError> {
        match Program::compile(env, text) {
            Err(why) => wrong(at, format!("compilation failed: {why}")),
            Ok(program) if decides && !matches!(program.result, Type::Bool | Type::Dyn) => {
                wrong(at, "must evaluate to bool")
            }
            Ok(program) => Ok(Self { text: text.to_owned(), program }),
        }
    }

    fn eval(&self, name: &str, value: &Val) -> Result<Val, AuthError> {
        let (values, mut budget) = ([(name, value.clone())], Budget::new(cost::PER_OBJECT));
        let failed = |why| AuthError(format!("oidc: expression '{}' resulted in error: {why}", self.text));
        self.program.eval(&Named(&values), &mut budget).map_err(failed)
    }

    fn holds(&self, name: &str, value: &Val, message: &str) -> Result<(), AuthError> {
        match self.eval(name, value)? {
            Val::Bool(true) => Ok(()),
            Val::Bool(false) if !message.is_empty() => Err(AuthError(format!("oidc: validation failed: {message}"))),
            Val::Bool(false) => Err(AuthError(format!("oidc: validation expression '{}' failed", self.text))),
            _ => Err(AuthError(format!("oidc: validation expression '{}' must return a boolean", self.text))),
        }
    }

    /// True when it looks at a member of `claims`.
    fn names(&self, member: &str) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        ["claims.", "claims.?", "claims['", "claims[\"", "claims[?'", "claims[?\""].iter().any(|before| {
            self.text.match_indices(&format!("{before}{member}")).any(|(at, found)| {
                let rest = &self.text[at + found.len()..];
                !rest.starts_with(is_word) && !self.text[..at].ends_with(is_word)
            })
        })
    }
}

impl Source {
    /// With a prefix where `prefixed`.
    fn parse(value: &Value, at: &str, prefixed: bool) -> Result<Option<Self>, ConfigError> {
        only(value, at, if prefixed { &["claim", "prefix", "expression"] } else { &["claim", "expression"] })?;
        let text = |name: &str| value.str_at(&format!("/{name}")).filter(|t| !t.is_empty());
        match (text("claim"), text("expression")) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => wrong(at, "claim and expression can't both be set"),
            (None, Some(_)) if value.get("prefix").is_some_and(|p| !p.is_null()) => {
                wrong(&format!("{at}.prefix"), "may not be specified when expression is set")
            }
            (None, Some(text)) => {
                let expression = Expression::compile(text, &claims_env(), &format!("{at}.expression"), false)?;
                Ok(Some(Self::Expression(expression)))
            }
            (Some(_), None) if prefixed && value.str_at("/prefix").is_none() => {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                wrong(&format!("{at}.prefix"), why)
            }
            (Some(name), None) => {
                let prefix = value.str_at("/prefix").unwrap_or_default().to_owned();
                Ok(Some(Self::Claim { name: name.to_owned(), prefix }))
            }
        }
    }

    /// The text; `what` is for errors.
    fn text(&self, what: &str, claims: &Value, cel: &Val) -> Result<String, AuthError> {
        match self {
            Self::Claim { name, prefix } => match claims.get(name) {
                Some(Value::String(text)) => Ok(format!("{prefix}{text}")),
                Some(_) => Err(AuthError(format!("oidc: parse {what} claim {name:?}: it is no text"))),
                None => Err(AuthError(format!("oidc: parse {what} claim {name:?}: claim not present"))),
            },
            Self::Expression(e) => match e.eval("claims", cel)? {
                Val::Str(text) => Ok(text.to_string()),
                _ => Err(AuthError(format!("oidc: {what} claim expression must return a string"))),
            },
        }
    }

    fn texts(&self, what: &str, claims: &Value, cel: &Val) -> Result<Vec<String>, AuthError> {
        let (value, prefix) = match self {
            Self::Claim { name, prefix } => (claims.get(name).cloned().unwrap_or_default(), prefix.as_str()),
            Self::Expression(e) => (e.eval("claims", cel)?.to_json().unwrap_or(Value::Bool(false)), ""),
        };
        Ok(list(value, what)?.into_iter().map(|text| format!("{prefix}{text}")).collect())
    }
}

/// A text, a list of them, or nothing.
fn list(value: Value, what: &str) -> Result<Vec<String>, AuthError> {
    let wrong = || AuthError(format!("oidc: {what} must be a text or a list of texts"));
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text]),
        Value::Array(items) => {
            items.into_iter().map(|i| if let Value::String(t) = i { Ok(t) } else { Err(wrong()) }).collect()
        }
        _ => Err(wrong()),
    }
}

impl Mapping {
    /// Of an entry of `jwt`.
    pub fn parse(value: &Value, at: &str) -> Result<Self, ConfigError> {
        let (of, mappings) = (format!("{at}.claimMappings"), &value["claimMappings"]);
        only(mappings, &of, &["username", "groups", "uid", "extra"])?;
        let at_username = format!("{of}.username");
        let Some(username) = Source::parse(&mappings["username"], &at_username, true)? else {
            return wrong(&at_username, "claim or expression is required");
        };
        let groups = Source::parse(&mappings["groups"], &format!("{of}.groups"), true)?;
        let uid = Source::parse(&mappings["uid"], &format!("{of}.uid"), false)?;
        let extra = extra(mappings, &of)?;
        let claim_rules = claim_rules(value, &format!("{at}.claimValidationRules"))?;
        let mut user_rules = Vec::new();
        for (i, rule) in value.items_at("/userValidationRules").iter().enumerate() {
            let at = format!("{at}.userValidationRules[{i}]");
            only(rule, &at, &["expression", "message"])?;
            let text = rule.str_at("/expression").unwrap_or_default();
            let expression = Expression::compile(text, &user_env(), &format!("{at}.expression"), true)?;
            user_rules.push((expression, rule.str_at("/message").unwrap_or_default().to_owned()));
        }
        let made = Self { username, groups, uid, extra, claim_rules, user_rules };
        if !made.verifies_email() {
            let why = "claims.email_verified must be used in claimMappings.username.expression or \
                 claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used \
                 in claimMappings.username.expression";
            return wrong(&format!("{at_username}.expression"), why);
        }
        Ok(made)
    }

    /// A user's name that is an address of mail is looked at with whether it is his.
    fn verifies_email(&self) -> bool {
        let Source::Expression(username) = &self.username else { return true };
        let rules = self.claim_rules.iter().filter_map(|r| match r {
            ClaimRule::Holds { expression, .. } => Some(expression),
            ClaimRule::Equals { .. } => None,
        });
        let mut all = [username].into_iter().chain(self.extra.iter().map(|(_, e)| e)).chain(rules);
        !username.names("email") || all.any(|e| e.names("email_verified"))
    }

    /// The claim that groups are taken from; none where an expression makes them, or nobody has any.
    pub fn groups_claim(&self) -> Option<&str> {
        match &self.groups {
            Some(Source::Claim { name, .. }) => Some(name),
            _ => None,
        }
    }

    /// The user whom the claims name.
    pub fn user(&self, claims: &Value) -> Result<UserInfo, AuthError> {
        let cel = Val::from_json(claims);
        let name = self.username.text("username", claims, &cel)?;
        if matches!(&self.username, Source::Claim { name, .. } if name == "email")
            && claims.get("email_verified").is_some_and(|v| *v != true)
        {
            return Err(AuthError::new("oidc: email not verified"));
        }
        if name.is_empty() {
            return Err(AuthError::new("oidc: the username is empty"));
        }
        let groups = self.groups.as_ref().map_or(Ok(Vec::new()), |g| g.texts("groups", claims, &cel))?;
        let uid = self.uid.as_ref().map_or(Ok(String::new()), |u| u.text("uid", claims, &cel))?;
        let mut extra = BTreeMap::new();
        for (key, expression) in &self.extra {
            let value = expression.eval("claims", &cel)?.to_json().unwrap_or(Value::Bool(false));
            let values = list(value, &format!("extra {key:?}"))?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        for rule in &self.claim_rules {
            match rule {
                ClaimRule::Holds { expression, message } => expression.holds("claims", &cel, message)?,
                ClaimRule::Equals { claim, value } => match claims.get(claim) {
                    None => return Err(AuthError(format!("oidc: required claim {claim} not present in ID token"))),
                    Some(Value::String(found)) if found == value => {}
                    Some(_) => return Err(AuthError(format!("oidc: required claim {claim} value does not match"))),
                },
            }
        }
        let user = UserInfo { name, uid, groups, extra };
        if !self.user_rules.is_empty() {
            let mut value = user_value(&user);
            for (field, empty) in [
                ("uid", Value::from("")),
                ("groups", Value::Array(vec![])),
                ("extra", Value::Object(Default::default())),
            ] {
                value.as_object_mut().expect("made above").entry(field).or_insert(empty);
            }
            let cel = Val::from_json(&value);
            self.user_rules.iter().try_for_each(|(rule, message)| rule.holds("user", &cel, message))?;
        }
        Ok(user)
    }
}

fn extra(mappings: &Value, of: &str) -> Result<Vec<(String, Expression)>, ConfigError> {
    let mut out: Vec<(String, Expression)> = Vec::new();
    for (i, one) in mappings.items_at("/extra").iter().enumerate() {
        let at = format!("{of}.extra[{i}]");
        only(one, &at, &["key", "valueExpression"])?;
        let (key, text) = (one.str_at("/key").unwrap_or_default(), one.str_at("/valueExpression").unwrap_or_default());
        let domain = key.split_once('/').filter(|(d, path)| d.contains('.') && !path.is_empty()).map(|(d, _)| d);
        let Some(domain) = domain else {
            return wrong(&format!("{at}.key"), "must be a domain-prefixed path (such as \"acme.io/foo\")");
        };
        if ["k8s.io", "kubernetes.io"].iter().any(|own| domain == *own || domain.ends_with(&format!(".{own}"))) {
            let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            return wrong(&format!("{at}.key"), why);
        }
        if key != key.to_lowercase() || out.iter().any(|(k, _)| k == key) {
            return wrong(&format!("{at}.key"), "must be lowercase and stand once");
        }
        let expression = Expression::compile(text, &claims_env(), &format!("{at}.valueExpression"), false)?;
        out.push((key.to_owned(), expression));
    }
    Ok(out)
}

fn claim_rules(value: &Value, of: &str) -> Result<Vec<ClaimRule>, ConfigError> {
    let mut out = Vec::new();
    for (i, rule) in value.items_at("/claimValidationRules").iter().enumerate() {
        let at = format!("{of}[{i}]");
        only(rule, &at, &["claim", "requiredValue", "expression", "message"])?;
        let text = |name: &str| rule.str_at(&format!("/{name}")).unwrap_or_default().to_owned();
        out.push(match (text("claim"), text("expression")) {
            (claim, expression) if claim.is_empty() == expression.is_empty() => {
                return wrong(&at, "exactly one of claim and expression is required");
            }
            (claim, _) if !claim.is_empty() => ClaimRule::Equals { claim, value: text("requiredValue") },
            (_, expression) => {
                let expression = Expression::compile(&expression, &claims_env(), &format!("{at}.expression"), true)?;
                ClaimRule::Holds { expression, message: text("message") }
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    fn user(config: Value, claims: Value) -> Result<UserInfo, String> {
        Mapping::parse(&config, "jwt[0]").unwrap().user(&claims).map_err(|e| e.0)
    }

    #[test]
    fn claims_and_expressions_make_a_user() {
        let config = json!({
            "claimMappings": {
                "username": {"expression": "'o:' + claims.sub"}, "groups": {"claim": "roles", "prefix": "o:"},
                "uid": {"claim": "oid"},
                "extra": [
                    {"key": "example.com/tenant", "valueExpression": "claims.tenant"},
                    {"key": "example.com/none", "valueExpression": "has(claims.none) ? claims.none : ''"},
                    {"key": "example.com/all", "valueExpression": "claims.roles.map(r, r + '!')"},
                ],
            },
            "claimValidationRules": [
                {"claim": "hd", "requiredValue": "example.com"},
                {"expression": "claims.exp - claims.iat <= 86400", "message": "too long"},
            ],
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}],
        });
        let claims = json!({"sub": "jane", "roles": ["a", "b"], "oid": "7", "tenant": "t", "hd": "example.com", "iat": 1, "exp": 2});
        let got = user(config.clone(), claims.clone()).unwrap();
        assert_eq!(
            (got.name.as_str(), got.uid.as_str(), got.groups),
            ("o:jane", "7", vec!["o:a".to_owned(), "o:b".to_owned()])
        );
        let extra: Vec<(&str, Vec<String>)> = got.extra.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        assert_eq!(
            extra,
            [("example.com/all", vec!["a!".to_owned(), "b!".to_owned()]), ("example.com/tenant", vec!["t".to_owned()])]
        );
        let with = |change: Value| {
            let mut claims = claims.clone();
            claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            user(config.clone(), claims).unwrap_err()
        };
        assert_eq!(with(json!({"exp": 90_000})), "oidc: validation failed: too long");
        assert_eq!(with(json!({"hd": "example.org"})), "oidc: required claim hd value does not match");
        assert!(with(json!({"sub": 7})).contains("resulted in error"));
    }

    #[test_case(json!({"sub": "a"}), Ok("a"))]
    #[test_case(json!({"sub": 7}), Err("oidc: parse username claim \"sub\": it is no text"))]
    #[test_case(json!({}), Err("oidc: parse username claim \"sub\": claim not present"))]
    #[test_case(json!({"sub": ""}), Err("oidc: the username is empty"))]
    #[test_case(json!({"sub": "system:admin"}), Err("oidc: validation failed: reserved"))]
    fn usernames(claims: Value, want: Result<&str, &str>) {
        let config = json!({
            "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}],
        });
        assert_eq!(user(config, claims).map(|u| u.name), want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test_case(json!({"email": "a@b.c"}), true)]
    #[test_case(json!({"email": "a@b.c", "email_verified": true}), true)]
    #[test_case(json!({"email": "a@b.c", "email_verified": false}), false)]
    #[test_case(json!({"email": "a@b.c", "email_verified": "true"}), false)]
    fn addresses_that_are_not_verified_are_nobodys(claims: Value, want: bool) {
        let config = json!({"claimMappings": {"username": {"claim": "email", "prefix": ""}}});
        assert_eq!(user(config, claims).is_ok(), want);
    }

    #[test_case(json!("one"), Ok(vec!["one"]))]
    #[test_case(json!(["one", "two"]), Ok(vec!["one", "two"]))]
    #[test_case(Value::Null, Ok(vec![]))]
    #[test_case(json!([1]), Err("oidc: groups must be a text or a list of texts"))]
    #[test_case(json!({"a": 1}), Err("oidc: groups must be a text or a list of texts"); "a map")]
    fn groups(claim: Value, want: Result<Vec<&str>, &str>) {
        let config = json!({"claimMappings": {"username": {"claim": "sub", "prefix": ""}, "groups": {"expression": "claims.g"}}});
        let want = want.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>()).map_err(str::to_owned);
        assert_eq!(user(config, json!({"sub": "a", "g": claim})).map(|u| u.groups), want);
    }
}
