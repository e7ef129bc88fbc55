"""The parts of which `inpaint.data.synthetic` makes its pictures: noise, scene, camera, ground and sky."""
