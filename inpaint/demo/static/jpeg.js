// The filled photo as a JPEG with the EXIF of the file that it was: for who wants it beside their other photos. All of
// its pixels are written anew, so that none is quite what it was.

const QUALITY = 0.95;
const ORIENTATION = 0x0112, THUMBNAIL_AT = 0x0201, THUMBNAIL_BYTES = 0x0202, CAMERA = 0x8769, MAKERS_NOTE = 0x927c;

export async function asJpeg(image, original) {
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  canvas.getContext("2d").drawImage(image, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  if (!blob) throw new Error("This browser could not write the JPEG: it has too little memory for so large a photo.");
  const exif = uprightExif(new Uint8Array(await original.arrayBuffer()));
  if (!exif) return blob;
  // After the mark of JFIF, which has to be the first.
  const jpeg = new DataView(await blob.arrayBuffer()), start = jpeg.getUint16(2) === 0xffe0 ? 4 + jpeg.getUint16(4) : 2;
  return new Blob([blob.slice(0, start), exif, blob.slice(start)], { type: blob.type });
}

// The segment of a JPEG that holds its EXIF, saying that the photo stands upright, and without the thumbnail and what
// its camera's maker noted, for both may show what was painted over; null if there is none.
function uprightExif(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 2; at + 10 < bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; at += 2 + view.getUint16(at + 2)) {
    if (view.getUint16(at) !== 0xffe1 || view.getUint32(at + 4) !== 0x45786966) continue; // "Exif"
    const segment = bytes.slice(at, at + 2 + view.getUint16(at + 2));
    try {
      setUpright(new DataView(segment.buffer, 10));
    } catch (error) {
      if (error instanceof RangeError) return null; // damaged: it leads out of itself
      throw error;
    }
    return segment;
  }
  return null;
}

// In place; what is written there is TIFF: two directories of tags of 12 bytes, the second of the thumbnail.
function setUpright(tiff) {
  const isLittle = tiff.getUint16(0) === 0x4949;
  const values = (directory) => new Map(Array.from({ length: tiff.getUint16(directory, isLittle) }, (_, index) => {
    const entry = directory + 2 + 12 * index;
    return [tiff.getUint16(entry, isLittle), entry + 8];
  }));
  const first = tiff.getUint32(4, isLittle), next = first + 2 + 12 * tiff.getUint16(first, isLittle);
  const clear = (start, length) => {
    if (start === undefined || length === undefined) return;
    const from = tiff.getUint32(start, isLittle), num = tiff.getUint32(length, isLittle);
    for (let at = from; at < from + num; at++) tiff.setUint8(at, 0);
  };
  const orientation = values(first).get(ORIENTATION), second = tiff.getUint32(next, isLittle);
  if (orientation !== undefined) tiff.setUint16(orientation, 1, isLittle);
  const camera = values(first).get(CAMERA);
  const note = camera === undefined ? undefined : values(tiff.getUint32(camera, isLittle)).get(MAKERS_NOTE);
  if (note !== undefined && tiff.getUint32(note - 4, isLittle) > 4) clear(note, note - 4); // of bytes; four fit in place
  if (!second) return;
  tiff.setUint32(next, 0, isLittle);
  clear(...[THUMBNAIL_AT, THUMBNAIL_BYTES].map((tag) => values(second).get(tag)));
}
