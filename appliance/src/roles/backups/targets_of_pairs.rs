//! Targets of local pairs in a backup: the image of the split and what hosts wrote to the target until the backup began, whatever
//! is still to be copied and whatever hosts write since.

use std::sync::Arc;
use std::time::Duration;

use tidemark_backup::image::Image as Readable;
use tidemark_backup::manifest::{Moment as Said, VolumeSaid};
use tidemark_backup::plan::Images;
use tidemark_backup::stop::Stop;
use tidemark_common::api::backup::types::WhileDifferential;
use tidemark_common::catalog::LocalPairStateRecord;
use tidemark_common::ids::GroupId;
use tidemark_common::local_pair::bits::VOLUME;
use tidemark_common::local_pair::target::begin_images;
use tidemark_common::local_pair::{LocalPair, RedirectFile};
use tidemark_common::t0::{Image, ImageVolume, Joined};

use super::moment::{Held, Moment, VolumeImage};
use crate::roles::appliance::Appliance;
use crate::roles::local_pairs::Held as Paired;

/// How often it is looked whether a target lacks nothing any more.
const LOOK: Duration = Duration::from_millis(20);

impl Appliance {
    /// The images of targets as they are now, all of one moment.
    pub(super) fn images_of_targets(
        targets: &[Arc<Paired>],
        how: WhileDifferential,
    ) -> Result<Vec<(Held, Said, Images)>, String> {
        targets.iter().try_for_each(|paired| Self::check_image_of_target(paired))?;
        let pairs: Vec<&LocalPair> = targets.iter().map(|paired| &*paired.pair).collect();
        let begun = begin_images(&pairs).map_err(|(target, error)| format!("volume '{target}': {error}"))?;
        Ok(targets.iter().zip(begun).map(|(paired, joined)| Self::image_of_target(paired, how, joined)).collect())
    }

    fn check_image_of_target(paired: &Paired) -> Result<(), String> {
        let record = paired.pair.record();
        let target = &record.target;
        if let Some(missing) = &paired.missing {
            return Err(format!("volume '{target}' cannot be used: {missing}"));
        }
        if record.state != LocalPairStateRecord::Split {
            return Err(format!(
                "volume '{target}' is the target of '{}' and no image now: `tidemark local-pair split {target}` first",
                record.source
            ));
        }
        Ok(())
    }

    fn image_of_target(paired: &Paired, how: WhileDifferential, joined: Joined) -> (Held, Said, Images) {
        let (pair, record) = (&paired.pair, paired.pair.record());
        let target = &record.target;
        let saves = Arc::clone(pair.saves());
        let held = Held::new(GroupId(record.id), &saves, joined.era);
        let size = pair.target().size();
        let file = Arc::new(RedirectFile::new(Arc::clone(pair), how == WhileDifferential::Copy));
        let volume = ImageVolume { index: VOLUME, name: target.clone(), size, file };
        let image = Image::new(saves, joined.era, vec![volume]);
        let readable: Arc<dyn Readable> = Arc::new(VolumeImage { image, index: VOLUME, size });
        let time = jiff::Timestamp::from_nanosecond(record.marker_ns.into()).unwrap_or_default();
        let volumes = vec![VolumeSaid { name: target.clone(), size }];
        let said = Said { group: record.group.clone(), marker: record.marker, time, volumes };
        (held, said, [(target.clone(), readable)].into())
    }

    /// Waits until targets lack nothing, when that was asked for.
    pub(super) async fn wait_complete(&self, stop: &Stop, moment: &Moment) -> Result<(), String> {
        for pair in &moment.wait_for {
            while pair.figures().differential_bytes > 0 && stop.reason().is_none() {
                if pair.state() != LocalPairStateRecord::Split {
                    return Err(format!("volume '{}' is no image any more", pair.target().name));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }
}
