//! From causes to gRPC codes: the only table. Codes are decided by what the caller does with them.
//!
//! Kubelet treats CANCELLED, `DEADLINE_EXCEEDED`, UNAVAILABLE, `RESOURCE_EXHAUSTED` and ABORTED as *uncertain*: it will clean
//! up later. Every other code is *final*: kubelet believes that nothing is left behind, so a final code is answered only
//! when no mount, waiter or reservation of the volume remains. external-provisioner retries all, and keeps
//! looking for the volume after an uncertain one.

use tonic::{Code, Status};
use tonnage_cache::error::Kind;

use crate::identity::Secrets;

/// Longest message in bytes: it becomes an event.
const MESSAGE_MAX: usize = 1000;

/// The calls that can fail by their own doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rpc {
    /// `ControllerCreateVolume`.
    CreateVolume,
    /// `ControllerDeleteVolume`.
    DeleteVolume,
    /// `ControllerValidateVolumeCapabilities`.
    ValidateVolumeCapabilities,
    /// `NodePublishVolume`.
    NodePublishVolume,
    /// `NodeUnpublishVolume`.
    NodeUnpublishVolume,
    /// `NodeGetVolumeStats`.
    NodeGetVolumeStats,
}

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::CreateVolume,
        Self::DeleteVolume,
        Self::ValidateVolumeCapabilities,
        Self::NodePublishVolume,
        Self::NodeUnpublishVolume,
        Self::NodeGetVolumeStats,
    ];

    /// The name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CreateVolume => "CreateVolume",
            Self::DeleteVolume => "DeleteVolume",
            Self::ValidateVolumeCapabilities => "ValidateVolumeCapabilities",
            Self::NodePublishVolume => "NodePublishVolume",
            Self::NodeUnpublishVolume => "NodeUnpublishVolume",
            Self::NodeGetVolumeStats => "NodeGetVolumeStats",
        }
    }
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An error of this kind.
    Kind(Kind),
    /// The name or target is taken by something that differs.
    Exists,
    /// The capacity cannot be had.
    OutOfRange,
    /// Something may be left behind: whatever the error was, the caller must come back.
    LeftBehind,
}

/// The code for a cause.
pub const fn code(cause: Cause, rpc: Rpc) -> Code {
    match cause {
        Cause::Kind(kind) => of_kind(kind, rpc),
        Cause::Exists => Code::AlreadyExists,
        Cause::OutOfRange => Code::OutOfRange,
        Cause::LeftBehind => Code::Unavailable,
    }
}

const fn of_kind(kind: Kind, rpc: Rpc) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Denied => Code::PermissionDenied,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Conflict => Code::FailedPrecondition,
        Kind::Busy => Code::Aborted,
        Kind::NoSpace | Kind::Exhausted => Code::ResourceExhausted,
        // Only a publish shows content; elsewhere it is a damaged record of ours.
        Kind::Corrupt => match rpc {
            Rpc::NodePublishVolume => Code::DataLoss,
            Rpc::CreateVolume
            | Rpc::DeleteVolume
            | Rpc::ValidateVolumeCapabilities
            | Rpc::NodeUnpublishVolume
            | Rpc::NodeGetVolumeStats => Code::Internal,
        },
        Kind::Transient => Code::Unavailable,
        Kind::Internal => Code::Internal,
    }
}

/// Whether kubelet will come back and clean up after this code.
pub const fn is_uncertain(code: Code) -> bool {
    match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Unavailable
        | Code::ResourceExhausted
        | Code::Aborted => true,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// The answer to a failed call: one sentence without secrets, control characters or URLs' queries.
pub fn answer(rpc: Rpc, cause: Cause, message: &str, secrets: &Secrets) -> Status {
    Status::new(code(cause, rpc), sentence(&secrets.redact(message)))
}

fn sentence(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(without_query).collect();
    let mut line: String = words
        .join(" ")
        .chars()
        .filter(|character| !character.is_control())
        .collect();
    if line.len() > MESSAGE_MAX {
        let end = line
            .char_indices()
            .map(|(at, _)| at)
            .take_while(|at| *at <= MESSAGE_MAX)
            .last()
            .unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Queries of URLs carry signatures.
fn without_query(word: &str) -> String {
    match word.split_once('?') {
        Some((before, _)) if before.contains("://") => format!("{before}?…"),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_kubelet_and_provisioner_act_on() {
        use Code::{
            Aborted, DataLoss, FailedPrecondition, Internal, InvalidArgument, NotFound,
            PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable,
        };
        let expected = |kind: Kind| match kind {
            Kind::Invalid => InvalidArgument,
            Kind::NotFound => NotFound,
            Kind::Denied => PermissionDenied,
            Kind::Unauthenticated => Unauthenticated,
            Kind::Conflict => FailedPrecondition,
            Kind::Busy => Aborted,
            Kind::NoSpace | Kind::Exhausted => ResourceExhausted,
            Kind::Corrupt => DataLoss,
            Kind::Transient => Unavailable,
            Kind::Internal => Internal,
        };
        for kind in Kind::ALL {
            for rpc in Rpc::ALL {
                let wanted = match (kind, rpc) {
                    (Kind::Corrupt, rpc) if rpc != Rpc::NodePublishVolume => Internal,
                    (kind, _) => expected(kind),
                };
                assert_eq!(code(Cause::Kind(kind), rpc), wanted, "{kind:?} {rpc:?}");
            }
        }
    }

    #[test]
    fn what_may_pass_is_uncertain_and_what_cannot_is_final() {
        for kind in Kind::ALL {
            let passes = matches!(
                kind,
                Kind::Busy | Kind::NoSpace | Kind::Exhausted | Kind::Transient
            );
            let code = code(Cause::Kind(kind), Rpc::NodePublishVolume);
            assert_eq!(is_uncertain(code), passes, "{kind:?}");
        }
        assert!(is_uncertain(code(
            Cause::LeftBehind,
            Rpc::NodePublishVolume
        )));
    }

    #[test]
    fn an_answer_is_one_clean_line() {
        let secrets = Secrets::new(std::collections::HashMap::from([(
            "k".to_owned(),
            "canary-1".to_owned(),
        )]));
        let text = "get https://h/k?X-Amz-Signature=1: canary-1 \n said \u{1b}no";
        let status = answer(Rpc::NodePublishVolume, Cause::Exists, text, &secrets);
        assert_eq!(status.message(), "get https://h/k?… [redacted] said no");
        let long = answer(
            Rpc::CreateVolume,
            Cause::Exists,
            &"ä".repeat(5000),
            &secrets,
        );
        assert!(long.message().len() <= MESSAGE_MAX + 4);
    }
}
