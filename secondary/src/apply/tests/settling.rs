//! Which volumes are let go with an image.

use parking_lot::Mutex;
use tidemark_common::wire::message::VolumeSpec;

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
    let marker =
        |number| ControlRecord::Marker(MarkerRecord { number, boundary_seq: 0, time_ns: 1, freeze_ns: 1, tag: None });
    let begin = ControlRecord::CopyBegin {
        copy: 7,
        start_seq: 0,
        start_marker: 7,
        chain: [3; 16],
        direct: true,
        total_bytes: 0,
        volumes: volumes(&[1]),
    };
    let mut tip = Tip::default();
    let mut take = |records: Vec<ControlRecord>| {
        let mut frames = VecDeque::<Bytes>::new();
        for record in records {
            let frame = record.frame(&Place::at(secondary.keeper().id(), &tip)).unwrap();
            tip = tip.follow(&FrameHeader::decode(&frame).unwrap()).unwrap();
            frames.push_back(frame.into());
        }
        let (_, mut intake) = secondary.enter(&hello(), PROTOCOL_VERSION).unwrap();
        intake.step(|| frames.pop_front()).unwrap();
        secondary.leave(intake);
        let limit = apply.state.limit();
        while apply.step(limit) == Applying::Did {}
        std::mem::take(&mut *noting.0.lock())
    };
    let none = Vec::<u32>::new();
    assert_eq!(take(vec![begin, marker(8), ControlRecord::CopyEnd { copy: 7, marker: 8 }]), none);
    let come_and_gone = [volumes(&[1, 2]), volumes(&[1])].map(|volumes| ControlRecord::Volumes { volumes });
    assert_eq!(take(come_and_gone.to_vec()), none, "what came for it is not permitted");
    assert_eq!(take(vec![marker(9)]), [2]);
    assert_eq!(take(vec![marker(10)]), none, "once");
}
