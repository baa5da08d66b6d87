//! Which plugins run: upstream's, unless flags say otherwise. Pure.
//!
//! Rules: upstream `apiserver/pkg/server/options/admission.go` and `pkg/kubeapiserver/options/plugins.go`.

use std::collections::BTreeSet;

use super::{LAST, ORDER};

/// Off unless somebody switches them on, as upstream has them.
const OFF: [&str; 1] = ["OwnerReferencesPermissionEnforcement"];
/// No plugin of upstream's, and none that anybody may do without.
const ALWAYS: [&str; 1] = ["RoleEscalation"];

/// The plugins that do not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice(BTreeSet<&'static str>);

impl Default for Choice {
    fn default() -> Self {
        Self(OFF.into())
    }
}

impl Choice {
    /// Of the names after `--enable-admission-plugins` and `--disable-admission-plugins`.
    ///
    /// # Errors
    /// Which name is not known, or stands after both.
    pub fn of(enabled: &[String], disabled: &[String]) -> Result<Self, String> {
        let mut off = Self::default().0;
        for name in enabled {
            off.remove(known("enable-admission-plugins", name)?);
        }
        for name in disabled {
            if enabled.contains(name) {
                return Err(format!("{name} in enable-admission-plugins and disable-admission-plugins overlapped"));
            }
            off.insert(known("disable-admission-plugins", name)?);
        }
        Ok(Self(off))
    }

    /// True for a plugin that runs.
    pub fn has(&self, name: &str) -> bool {
        !self.0.contains(name)
    }
}

fn known(flag: &str, name: &str) -> Result<&'static str, String> {
    let all: Vec<&str> = ORDER.iter().chain(&LAST).copied().filter(|known| !ALWAYS.contains(known)).collect();
    let found = all.iter().find(|known| **known == name).copied();
    found.ok_or_else(|| format!("{flag} plugin {name:?} is unknown; there are {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(&[], &[], Ok(&["OwnerReferencesPermissionEnforcement"]))]
    #[test_case(&["OwnerReferencesPermissionEnforcement", "LimitRanger"], &[], Ok(&[]); "all")]
    #[test_case(&["OwnerReferencesPermissionEnforcement"], &["ResourceQuota", "LimitRanger"], Ok(&["LimitRanger", "ResourceQuota"]))]
    #[test_case(&["LimitRanger"], &["LimitRanger"], Err("LimitRanger in enable-admission-plugins and disable-admission-plugins overlapped"))]
    #[test_case(&["Nothing"], &[], Err("enable-admission-plugins plugin \"Nothing\" is unknown"))]
    #[test_case(&[], &["RoleEscalation"], Err("disable-admission-plugins plugin \"RoleEscalation\" is unknown"))]
    fn choices(enabled: &[&str], disabled: &[&str], want: Result<&[&str], &str>) {
        let texts = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        match (Choice::of(&texts(enabled), &texts(disabled)), want) {
            (Ok(found), Ok(off)) => assert_eq!(found.0.into_iter().collect::<Vec<_>>(), off),
            (Err(found), Err(why)) => assert!(found.starts_with(why), "{found}"),
            (found, _) => panic!("{found:?}"),
        }
    }
}
