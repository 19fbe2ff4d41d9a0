//! Which volumes are let go with an image.

use parking_lot::Mutex;

use super::*;

/// Notes who came for nothing.
#[derive(Default)]
struct Noting(Mutex<Vec<u32>>);

impl CopyVolumes for Noting {
    fn provide(&self, _: &str, _: &[VolumeSpec], _: &Volumes) -> Result<(), String> {
        Ok(())
    }

    fn fit(&self, _: &[VolumeSpec], _: &Volumes) -> Result<(), String> {
        Ok(())
    }

    fn let_go(&self, _: &str, _: &[GroupVolume], _: &Volumes) -> Result<(), String> {
        Ok(())
    }

    fn left(&self, _: &[GroupVolume]) {}

    fn let_strays_go(&self, _: &str, left: &[GroupVolume], _: &Volumes) -> Result<(), String> {
        self.0.lock().extend(left.iter().map(|member| member.index));
        Ok(())
    }
}

/// The image has the volumes it had, and yet one is to go.
#[test]
fn a_volume_that_came_and_left_before_the_image_had_it_is_let_go() {
    let (secondary, mut apply, _records) = copy();
    let noting = Arc::new(Noting::default());
    apply.provider = Arc::clone(&noting) as Arc<dyn CopyVolumes>;
    let volumes = |indexes: &[u32]| -> Vec<VolumeSpec> {
        indexes.iter().map(|index| VolumeSpec { index: *index, name: format!("v{index}"), size: 512 }).collect()
    };
    let mut tip = Tip::default();
    let mut take = |records: Vec<ControlRecord>| {
        send(&secondary, &mut tip, records);
        let limit = apply.state.limit();
        while apply.step(limit) == Applying::Did {}
        std::mem::take(&mut *noting.0.lock())
    };
    let none = Vec::<u32>::new();
    assert_eq!(take(copied(volumes(&[1]))), none);
    let come_and_gone = [volumes(&[1, 2]), volumes(&[1])].map(|volumes| ControlRecord::Volumes { volumes });
    assert_eq!(take(come_and_gone.to_vec()), none, "what came for it is not permitted");
    assert_eq!(take(vec![marked(9)]), [2]);
    assert_eq!(take(vec![marked(10)]), none, "once");
}
