//! The plugin that keeps the keys: calls over its unix socket, each with the configuration's deadline.
//!
//! **Invariant:** no key, seed or value is in an error or a log.

use std::error::Error;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Response, Status};

use super::proto as pb;
use super::proto::key_management_service_client::KeyManagementServiceClient as Client;
use crate::util::backoff::Backoff;

/// Between two tries to reach a socket that nobody listens on yet.
const CONNECT: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(500) };

/// Why a plugin did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// It said no.
    #[error("rpc error: code = {code} desc = {message}")]
    Refused {
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
    /// It did not answer within its timeout.
    #[error("no answer within {} s{why}", .timeout.as_secs_f32())]
    TimedOut {
        /// The configuration's.
        timeout: Duration,
        /// `: ` and why the socket could not be reached; empty where it was.
        why: String,
    },
}

/// One plugin.
pub struct Plugin {
    socket: PathBuf,
    timeout: Duration,
    /// Made at the first call, which is within the runtime.
    client: OnceLock<Client<Channel>>,
}

impl Plugin {
    /// Nothing is dialled yet.
    pub fn new(socket: PathBuf, timeout: Duration) -> Self {
        Self { socket, timeout, client: OnceLock::new() }
    }

    fn client(&self) -> Client<Channel> {
        self.client.get_or_init(|| Client::new(crate::util::grpc::channel(&self.socket))).clone()
    }

    /// How it is, and which key it seals with.
    pub async fn status(&self) -> Result<pb::StatusResponse, PluginError> {
        self.call(|mut client| async move { client.status(pb::StatusRequest {}).await }).await
    }

    /// Seals a seed.
    pub async fn encrypt(&self, uid: &str, plain: &[u8]) -> Result<pb::EncryptResponse, PluginError> {
        let asked = pb::EncryptRequest { plaintext: plain.to_vec(), uid: uid.to_owned() };
        self.call(|mut client| {
            let asked = asked.clone();
            async move { client.encrypt(asked).await }
        })
        .await
    }

    /// Opens one.
    pub async fn decrypt(&self, uid: &str, source: &pb::EncryptedObject) -> Result<Vec<u8>, PluginError> {
        let asked = pb::DecryptRequest {
            ciphertext: source.encrypted_dek_source.clone(),
            uid: uid.to_owned(),
            key_id: source.key_id.clone(),
            annotations: source.annotations.clone(),
        };
        let answer = self.call(|mut client| {
            let asked = asked.clone();
            async move { client.decrypt(asked).await }
        });
        Ok(answer.await?.plaintext)
    }

    /// One call. A socket that nobody listens on is waited for as long as the deadline allows; what a plugin answered is
    /// not asked again.
    async fn call<T, F>(&self, call: impl Fn(Client<Channel>) -> F) -> Result<T, PluginError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut unreached = String::new();
        let work = async {
            let mut tries = 0;
            loop {
                match call(self.client()).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => match connect_error(&status) {
                        Some(why) => unreached = format!(": {why}"),
                        None => {
                            let (code, message) = (format!("{:?}", status.code()), status.message().to_owned());
                            return Err(PluginError::Refused { code, message });
                        }
                    },
                }
                tries += 1;
                tokio::time::sleep(CONNECT.delay(tries)).await;
            }
        };
        let done = tokio::time::timeout(self.timeout, work).await;
        done.unwrap_or_else(|_| Err(PluginError::TimedOut { timeout: self.timeout, why: unreached }))
    }
}

/// Why the socket could not be reached; none when somebody there answered.
fn connect_error(status: &Status) -> Option<String> {
    let transport = status.source()?.downcast_ref::<tonic::transport::Error>()?;
    let mut root: &dyn Error = transport;
    while let Some(below) = root.source() {
        root = below;
    }
    Some(root.to_string())
}
