"""The parts of which `inpaint.data.synthetic.landscapes` makes its pictures: noise, scene, camera, ground and sky."""
