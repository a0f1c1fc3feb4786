"""The synthetic hands: anatomy, labels against rendered surface, and the files they are written to."""

import cv2
import numpy as np
import pytest
from scipy.spatial import KDTree

pytest.importorskip("embreex", reason="the synthetic hand needs requirements-synth.txt")

from config import Config
from dataloader import nyu
from dataloader.index import build_index
from dataloader.nyu import EVALUATED_JOINTS
from dataloader.synthetic import writer
from dataloader.synthetic.hand.bank import HandBank
from dataloader.synthetic.hand.forearm import attach_forearm, sample_forearm
from dataloader.synthetic.hand.landmarks import label_joints
from dataloader.synthetic.hand.pose import overlap, sample_pose
from dataloader.synthetic.hand.skeleton import JointAngles, pose_joints, skin
from dataloader.synthetic.placing import pose_hand
from dataloader.synthetic.scene import sample_scene
from dataloader.synthetic.writer import SplitSettings, sample_frame, sample_person, write_split
from util import UserError
from util.camera import NYU_CAMERA
from util.files import locked_folder

SLOTS = list(EVALUATED_JOINTS)
FLAGS = ("--split", "test", "--seed", "3", "--num_workers", "1", "--without", "all", "--out")  # of TEST
TEST = SplitSettings("test", 41, 3, NYU_CAMERA, (480, 640))  # one frame more than a chunk


@pytest.fixture(scope="module")
def shapes():
    return HandBank(split="test")


@pytest.fixture(scope="module")
def people(shapes):
    return [sample_person(shapes, TEST, person) for person in range(6)]


@pytest.fixture(scope="module")
def scenes(people):
    return [sample_scene(np.random.default_rng(i), people[i % len(people)], NYU_CAMERA) for i in range(30)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("one_worker")
    assert write_split(TEST, out, workers=1)
    return out


def files_of(folder):
    """Every file below a folder: {relative path: bytes}."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_bones_keep_their_length_in_every_pose(people):
    rng = np.random.default_rng(0)
    for shape in people:
        posed = [pose_joints(shape, sample_pose(rng, shape)) for _ in range(10)]
        joints = np.stack([each for _, each in posed])
        lengths = np.linalg.norm(np.diff(joints, axis=2), axis=-1)
        assert np.ptp(lengths, axis=0).max() < 1e-9
        # Of NYU's labels, those that one bone holds together: thumb tip and IP, wrists, palm.
        labels = np.stack([label_joints(shape, *each)[0] for each in posed])
        for a, b in ((24, 25), (30, 31), (30, 32)):
            assert np.ptp(np.linalg.norm(labels[:, a] - labels[:, b], axis=1)) < 1e-9


def test_fingers_stay_out_of_one_another(people):
    rng = np.random.default_rng(1)
    depth = [overlap(shape, pose_joints(shape, sample_pose(rng, shape))[1][None]) for shape in people * 20]
    assert np.percentile(depth, 98) < 3
    assert np.max(depth) < 6


def turns_around(points, triangles):
    """Winding number (P,) of a closed mesh (F, 3, 3) around points (P, 3): 0 outside, also where it cuts
    through itself, as fingers that touch do. Solid angles by van Oosterom and Strackee, 1983."""
    a, b, c = (triangles[:, i] - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(each, axis=-1) for each in (a, b, c))
    volume = (a * np.cross(b, c)).sum(-1)
    dots = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return np.arctan2(volume, dots).sum(1) / (2 * np.pi)


def test_joints_lie_inside_the_hand_and_near_its_skin(people):
    """The mesh alone, closed by the forearm: no joint floats before, behind or beside it."""
    rng = np.random.default_rng(2)
    for shape in people * 4:
        rotations, joints = pose_joints(shape, sample_pose(rng, shape))
        labels = label_joints(shape, rotations, joints)
        points = np.concatenate([labels[0][SLOTS], labels[1]])
        hand = skin(shape, rotations, joints)
        mesh, faces = attach_forearm(hand, shape.faces, shape.wrist_loop, sample_forearm(rng, shape))
        distance = KDTree(np.concatenate([mesh, mesh[faces].mean(1)])).query(points)[0]
        outside = np.abs(turns_around(points, mesh[faces])) < 0.5
        assert distance[outside].max(initial=0) < 2, np.flatnonzero(outside)
        assert distance.max() < 25
        # Tips, PIP and DIP: within a finger's thickness, so no more than that behind visible skin.
        fingers = np.r_[0:10, 14 + np.r_[3:5, 7:9, 11:13, 15:17, 19:21]]
        assert distance[fingers].max() < 1.3 * shape.radii.max()


def test_labels_are_complete_under_the_surface_and_the_sensor_changes_depth_little(scenes):
    seen, total = 0, 0
    for scene in scenes:
        assert np.flatnonzero(np.isfinite(scene.joints36).all(1)).tolist() == SLOTS
        assert np.isfinite(scene.joints21).all()
        assert np.isfinite(scene.center).all()
        for joints in (scene.joints36[SLOTS], scene.joints21):
            uvd = NYU_CAMERA.xyz_to_uvd(joints)
            u, v = np.rint(uvd[:, :2]).astype(int).T
            inside = (u >= 0) & (u < 640) & (v >= 0) & (v < 480)
            below = uvd[inside, 2] - scene.exact[v[inside], u[inside]]
            assert (scene.exact[v[inside], u[inside]] > 0).all()
            # Nearer surface may hide a joint; surface behind it would mean that it floats before the hand.
            assert below.min() > -2
            seen, total = seen + (below < 25).sum(), total + inside.sum()
        assert (scene.depth > 0).sum() > 500
        both = (scene.depth > 0) & (scene.exact > 0)
        assert np.median(np.abs(scene.depth[both] - scene.exact[both])) < 6
        assert both.sum() > 0.6 * (scene.exact > 0).sum()
    assert seen > 0.7 * total


def test_right_hand_shows_its_thumb_on_the_right(people):
    flex, spread = np.zeros((5, 4)), np.radians([60, 10, 2, -6, -16])
    flat = JointAngles(flex, spread, np.radians(20), np.zeros(5), np.zeros(2))  # its thumb to the side
    for shape in people:
        forearm = sample_forearm(np.random.default_rng(0), shape)
        hand = pose_hand(shape, flat, forearm, np.eye(3)).moved_to(np.array([0, 0, 700]))
        u, v, _ = NYU_CAMERA.xyz_to_uvd(hand.joints21).T
        thumb_tip, pinky_tip, wrist = 4, 20, 0
        assert u[thumb_tip] > u[wrist] > u[pinky_tip]
        assert v[12] < v[9] < v[wrist]  # the middle finger points up
        ulnar, radial = hand.joints36[30], hand.joints36[31]
        assert ulnar[0] < radial[0]


def test_other_cameras(people):
    down = NYU_CAMERA._replace(flip=1)
    one, other = (sample_scene(np.random.default_rng(5), people[0], each) for each in (NYU_CAMERA, down))
    assert np.array_equal(one.depth, other.depth)
    assert np.allclose(NYU_CAMERA.xyz_to_uvd(one.joints21), down.xyz_to_uvd(other.joints21))
    camera = NYU_CAMERA._replace(fx=241.42, fy=241.42, cx=160.0, cy=120.0)
    scene = sample_scene(np.random.default_rng(2), people[0], camera, (240, 320))
    assert scene.depth.shape == (240, 320)
    assert (scene.depth > 0).any()


def test_splits_share_neither_people_nor_frames(shapes):
    settings = [TEST._replace(split=split) for split in ("train", "val", "test", "val_hard")]
    banks = {each.split: HandBank(split=each.split) for each in settings}
    np.testing.assert_array_equal(banks["val"]._people, banks["val_hard"]._people)  # these alone do
    for split in ("train", "test"):
        assert not (banks[split]._people[:, None] == banks["val"]._people).all(-1).any()
    people = [(banks[each.split], each, person) for each in settings for person in range(3)]
    assert len({sample_person(*person).length for person in people}) == len(people)
    person = sample_person(shapes, TEST, 0)
    poses = {tuple(sample_frame(each, i, person).joints21[4]) for each in settings[:3] for i in range(3)}
    assert len(poses) == 9


@pytest.mark.slow
def test_number_of_workers_changes_no_byte(written, tmp_path):
    write_split(TEST, tmp_path, workers=2)
    assert files_of(tmp_path) == files_of(written)


def test_an_interrupted_run_is_completed(written, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_split(TEST, tmp_path, workers=1)
    (tmp_path / "test" / "parts" / "000001.npz").unlink()
    (tmp_path / "test" / "depth_1_0000041.png").unlink()
    assert write_split(TEST, tmp_path, workers=1)
    assert files_of(tmp_path) == files_of(written)
    assert not write_split(TEST, tmp_path, workers=1)


def test_two_renderers_do_not_write_one_split(tmp_path):
    with locked_folder(tmp_path / "test"), pytest.raises(UserError, match="Another run writes into"):
        write_split(TEST, tmp_path, workers=1)


def test_nyu_loader_reads_it(written):
    index = build_index(Config(dataset="synth", data_dir=str(written)).resolved())
    scene = sample_frame(TEST, 40, sample_person(HandBank(split="test"), TEST, 5))
    assert np.allclose(index.joint_xyz[40], scene.joints36[SLOTS], atol=1e-3)
    assert np.allclose(index.center_xyz[40], scene.center, atol=1e-3)
    assert np.array_equal(nyu.read_depth(written / "test" / "depth_1_0000041.png"), scene.depth)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--frames", "0"), "must be at least 1"),
        (("--width", "10"), "width is 10: it must be at least 64"),
        (("--camera.fx", "0"), "fx and fy above 1"),
        (("--frames", "42"), "other settings (frames 41, now 42)"),
        (("--frames", "41", "--camera.fx", "500"), "other settings (camera"),
        (("--out", "mine", "--frames", "8"), "did not make"),
        (("--without", "rings"), "kinds are touching, signs"),
        (("--split", "val_hard", "--without", "all"), "leave some of them in"),
        (("--sheet", "kinds.gif"), "a contact sheet ends with .png"),
    ],
)
def test_errors_are_a_sentence_and_exit_code_2(written, arguments, sentence, tmp_path, fails, monkeypatch):
    (tmp_path / "mine" / "test").mkdir(parents=True)
    (tmp_path / "mine" / "test" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert sentence in fails("dataloader.synthetic", *FLAGS, written, *arguments)
    assert [file.name for file in tmp_path.rglob("*")] == ["mine", "test", "mine.txt"]


def test_the_contact_sheet_shows_the_split(written, tmp_path, succeeds):
    sheet = ("--frames", "41", "--sheet", tmp_path / "sheet.png")
    ran = succeeds("dataloader.synthetic", *FLAGS, written, *sheet)
    assert "nothing to do" in ran.out
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 10
