"""The parts of which `inpaint.data.synthetic.landscapes` makes its images: noise, scene, camera, ground and sky."""
