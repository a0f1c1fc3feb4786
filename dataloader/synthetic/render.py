"""First-hit depth: a triangle mesh by Embree's ray tracer, planes and ellipsoids in closed form."""

from functools import lru_cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene

from util.camera import Camera

Size = tuple[int, int]  # (height, width), pixels
_DEVICE = EmbreeDevice()  # making one takes longer than tracing a hand


def y_up(camera: Camera) -> Camera:
    """The camera that renders: left-handed like the hand's frame. One with y down mirrors the labels."""
    return camera._replace(flip=-1)


def render_mesh(vertices: np.ndarray, faces: np.ndarray, camera: Camera, size: Size) -> np.ndarray:
    """Depth of a mesh through the pixel centres, (H, W) float32 mm, 0 where no surface is hit.

    `vertices`: (V, 3) camera space, mm. `faces`: (F, 3) int32, closed, (b - a) × (c - a) outward.
    """
    depth = np.zeros(size, np.float32)
    # What is nearer than this is behind the camera or against its lens.
    faces = faces[(vertices[:, 2] > 20)[faces].all(1)]
    # Of a closed surface the far side is never hit first: half the triangles to build.
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    faces = faces[(normals * corners[:, 0]).sum(1) < 0]
    uv = camera.xyz_to_uvd(vertices)[:, :2][faces].reshape(-1, 2)
    width_height = np.array(size[::-1])
    left, top = np.clip(np.floor(uv.min(0, initial=np.inf)), 0, width_height).astype(int)
    right, bottom = np.clip(np.ceil(uv.max(0, initial=-np.inf)) + 1, 0, width_height).astype(int)
    window = depth[top:bottom, left:right]
    if window.size == 0:
        return depth
    scene = EmbreeScene(_DEVICE)
    TriangleMesh(scene, vertices.astype(np.float32), faces)
    rays = frame_rays(camera, size)[top:bottom, left:right].reshape(-1, 3)
    # Rays have z = 1, so that the distance along them is the depth itself.
    distance = scene.run(np.zeros_like(rays), rays, query="DISTANCE").reshape(window.shape)
    window[:] = np.where(distance < 1e5, distance, 0)
    return depth


@lru_cache(maxsize=2)
def frame_rays(camera: Camera, size: Size, step: int = 1) -> np.ndarray:
    """Rays (H/step, W/step, 3) float32 with z = 1, one for every step × step pixels."""
    u, v = np.meshgrid(np.arange(0, size[1], step), np.arange(0, size[0], step))
    middle = (step - 1) / 2
    uvd = np.stack([u + middle, v + middle, np.ones_like(u)], -1).astype(np.float32)
    return camera.uvd_to_xyz(uvd)


def render_plane(rays: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    """Depth (...) of the plane `normal · xyz = offset` along rays (..., 3) with z = 1; 0 where not hit."""
    along = rays @ normal.astype(np.float32)
    depth = offset / np.where(np.abs(along) > 1e-6, along, 1e-6)
    return np.where(depth > 0, depth, 0).astype(np.float32)


def render_ellipsoid(rays: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Depth (...) of an upright ellipsoid's near side along rays (..., 3) with z = 1; 0 where not hit."""
    ray = rays / radii.astype(np.float32)
    start = (-center / radii).astype(np.float32)
    a, b = (ray * ray).sum(-1), ray @ start
    root = b * b - a * (start @ start - 1)
    return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, 0).astype(np.float32)


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The nearer surface of two depth images, where 0 means none."""
    return np.where((a > 0) & ((a < b) | (b == 0)), a, b)


def covered(joint_xyz: np.ndarray, depth: np.ndarray, camera: Camera) -> float:
    """Share of joints (J, 3) that a depth image (H, W) lies before; those outside it are not covered."""
    u, v, d = camera.xyz_to_uvd(joint_xyz).T
    inside = (u >= 0) & (u < depth.shape[1]) & (v >= 0) & (v < depth.shape[0])
    before = depth[v[inside].astype(int), u[inside].astype(int)]
    return float(((before > 0) & (before < d[inside])).sum() / len(joint_xyz))
