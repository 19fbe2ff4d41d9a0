//! `tidemark t0`: read-only images of volumes at a moment.

use clap::Subcommand;
use serde_json::json;
use tidemark_common::api::types::{ImageKind, ImageState, ImageStatus, T0Create};

use super::Service;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// `tidemark t0 ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a T0 copy: on a primary at a marker cut now, on a secondary at its newest marker
    Create {
        /// Name of the T0 copy; its exports are NAME/VOLUME
        #[arg(value_parser = name)]
        name: String,
        /// Groups, or volumes of groups: all are shown at one moment. Of several groups, all must be primary here
        #[arg(long, value_name = "GROUP|VOLUME", value_parser = name, required = true, num_args = 1..)]
        of: Vec<String>,
    },
    /// Delete a T0 copy
    Delete(Delete),
    /// List the T0 copies
    List,
}

/// What to delete.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Its name
    #[arg(value_parser = name)]
    pub(crate) name: String,
    /// Delete it even while hosts are connected; they get errors from then on
    #[arg(long)]
    pub(crate) force: bool,
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    match command {
        Command::Create { name, of } => {
            let image = service.client.t0_create(&T0Create { name, of }).await?;
            output::done(service.json, &image, made)
        }
        Command::Delete(Delete { name, force }) => delete(service, Kind::T0, &name, force).await,
        Command::List => list(service, |kind| kind == ImageKind::T0).await,
    }
}

/// What was made, and how to open it.
pub(crate) fn made(image: &ImageStatus) -> String {
    let shown = match image.moments.as_slice() {
        [_, _, ..] => {
            let each =
                image.moments.iter().map(|moment| format!("group '{}' at marker {}", moment.group, moment.marker));
            format!("{}, all at one moment", each.collect::<Vec<_>>().join(", "))
        }
        _ => format!("group '{}' at marker {} of {}", image.group, image.marker, figures::time(image.marker_time)),
    };
    format!("'{}' shows {shown}:\n  {}", image.name, image.exports.join("\n  "))
}

/// What is deleted, as a command calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    T0,
    Clone,
}

impl Kind {
    const fn of(kind: ImageKind) -> Self {
        match kind {
            ImageKind::T0 => Self::T0,
            ImageKind::Clone | ImageKind::Drill => Self::Clone,
        }
    }

    /// In words, and as its command.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::T0 => ("T0 copy", "t0"),
            Self::Clone => ("clone", "clone"),
        }
    }
}

/// They have names among each other: whoever takes one for the other may not know what is lost with it.
pub(crate) async fn delete(service: &Service, kind: Kind, name: &str, force: bool) -> Result<(), Failure> {
    let images = service.client.status().await?.images;
    let found = images.iter().find(|image| image.name == name).map(|image| Kind::of(image.kind));
    if let Some((is, command)) = found.filter(|found| *found != kind).map(Kind::words) {
        return Err(Failure::Here(anyhow::anyhow!(
            "'{name}' is a {is}: nothing was changed. `tidemark {command} delete {name}` deletes it"
        )));
    }
    let (what, _) = kind.words();
    service.client.image_delete(name, force).await?;
    output::done(service.json, &json!({ "name": name }), |_| format!("{what} '{name}' is deleted"))
}

/// The images of some kinds.
pub(crate) async fn list(service: &Service, fits: impl Fn(ImageKind) -> bool) -> Result<(), Failure> {
    let mut images = service.client.status().await?.images;
    images.retain(|image| fits(image.kind));
    output::answer(service.json, &images, |images: &Vec<ImageStatus>| Ok(table(images)))
}

/// Images for people.
pub(crate) fn table(images: &[ImageStatus]) -> String {
    let mut table = Table::new(&[
        "NAME", "KIND", "GROUP", ">MARKER", "MOMENT", ">MADE", "STATE", ">SAVED", ">WRITTEN", ">HOSTS", "VOLUMES",
    ]);
    for image in images {
        let kind = match image.kind {
            ImageKind::T0 => "t0",
            ImageKind::Clone => "clone",
            ImageKind::Drill => "drill",
        };
        let state = match (image.state, &image.reason) {
            (ImageState::Ready, _) => "ready".to_owned(),
            (ImageState::Broken, reason) => format!("broken: {}", reason.as_deref().unwrap_or("unknown")),
        };
        let (groups, markers) = match image.moments.as_slice() {
            [] => (image.group.clone(), image.marker.to_string()),
            moments => (
                moments.iter().map(|moment| moment.group.clone()).collect::<Vec<_>>().join(", "),
                moments.iter().map(|moment| moment.marker.to_string()).collect::<Vec<_>>().join(", "),
            ),
        };
        table.row(&[
            &image.name,
            kind,
            &groups,
            &markers,
            &figures::time(image.marker_time),
            &format!("{} ago", figures::seconds(image.age_seconds)),
            &state,
            &figures::bytes(image.saved_bytes),
            &figures::bytes(image.written_bytes),
            &image.connections.to_string(),
            &image.volumes.join(", "),
        ]);
    }
    table.or("there are no images of this kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_of_an_older_moment_is_told_by_that_moment_and_when_it_was_made() {
        let image = ImageStatus {
            name: "try".into(),
            kind: ImageKind::Clone,
            group: "g".into(),
            marker: 42,
            marker_time: "2025-12-30T00:00:00Z".parse().unwrap(),
            moments: Vec::new(),
            created: "2026-01-01T00:00:00Z".parse().unwrap(),
            age_seconds: 61.0,
            state: ImageState::Ready,
            reason: None,
            volumes: vec!["a".into()],
            exports: vec!["nbd+unix:///try/a?socket=/srv/east/nbd.sock".into()],
            connections: 0,
            saved_bytes: 0,
            written_bytes: 0,
            space_bytes: 1 << 30,
        };
        let listed = table(std::slice::from_ref(&image));
        assert!(listed.contains("2025-12-30 00:00:00Z") && listed.contains("1 min 1 s ago"), "{listed}");
        assert!(made(&image).contains("at marker 42 of 2025-12-30 00:00:00Z"), "{}", made(&image));
    }
}
