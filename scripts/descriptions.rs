//! Cargo's build script: what fields and kinds mean, in upstream's words, for the published OpenAPI.
//!
//! In: k8s-openapi's `schemars` feature, which carries upstream's descriptions of 1.36. Out: `descriptions.zz`, read by
//! `api::schema::openapi::words`. A dependency of the build alone: what the binary holds of it is the compressed text,
//! and the types it runs on are compiled without their schemas.
//!
//! The text has a line per struct (`name TAB description`) and below it one per field (`TAB field TAB description`).
//! Newlines within a description are written `\n`, backslashes `\\`.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use k8s_openapi::schemars::SchemaGenerator;
use serde_json::Value;

/// Names the kinds whose schemas, and all that they refer to, are read.
macro_rules! kinds {
    ($generator:ident: $($($module:ident)::+ { $($kind:ident)* })*) => {
        $({
            use k8s_openapi::$($module)::+ as module;
            $($generator.subschema_for::<module::$kind>();)*
        })*
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=scripts/descriptions.rs");
    let mut generator = SchemaGenerator::default();
    read_kinds(&mut generator);
    let mut text = String::new();
    for (name, schema) in generator.definitions() {
        write_struct(&mut text, name, schema);
    }
    let path = Path::new(&std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("descriptions.zz");
    let mut file = ZlibEncoder::new(std::fs::File::create(path)?, Compression::best());
    file.write_all(text.as_bytes())?;
    file.finish()?;
    Ok(())
}

fn read_kinds(g: &mut SchemaGenerator) {
    kinds! { g:
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
        }
        api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
        }
        api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob Job }
        api::certificates::v1 { CertificateSigningRequest }
        api::coordination::v1 { Lease }
        api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
        }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { Eviction PodDisruptionBudget }
        api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::scheduling::v1 { PriorityClass }
        api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
        apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        apimachinery::pkg::apis::meta::v1 {
            APIGroup APIGroupList APIResourceList APIVersions DeleteOptions GroupResource ListMeta MicroTime Patch Status Time
        }
        apimachinery::pkg::api::resource { Quantity }
        apimachinery::pkg::runtime { RawExtension }
        apimachinery::pkg::util::intstr { IntOrString }
        kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    }
}

fn write_struct(text: &mut String, name: &str, schema: &Value) {
    let description =
        |value: &Value| value["description"].as_str().unwrap_or_default().replace('\\', "\\\\").replace('\n', "\\n");
    text.push_str(&format!("{name}\t{}\n", description(schema)));
    for (field, value) in schema["properties"].as_object().into_iter().flatten() {
        text.push_str(&format!("\t{field}\t{}\n", description(value)));
    }
}
