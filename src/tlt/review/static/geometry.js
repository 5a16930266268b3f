// Points of the patient and places in a picture. Points are LPS millimetres [x, y, z]; right and
// down are millimetres along a picture's edges, as tlt.review.slices.Sheet says.

/** The point that an affine of three rows (x, y, z, shift) carries a point to. */
export function carried(rows, point) {
  return rows.map((row) => row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3]);
}

/** [right, down] of a point in a plane. */
export function place(plane, point) {
  const down = point[plane.down_axis];
  return [point[plane.right_axis], plane.flip ? -down : down];
}

/** The point moved by millimetres right, down, and along the normal. */
export function moved(plane, point, right, down, normal = 0) {
  const result = [...point];
  result[plane.right_axis] += right;
  result[plane.down_axis] += plane.flip ? -down : down;
  result[3 - plane.right_axis - plane.down_axis] += normal;
  return result;
}

/** The slice nearest to a point, kept within the sheet. */
export function nearest(sheet, point) {
  const index = Math.round((point[sheet.normal_axis] - sheet.first_mm) / sheet.step_mm);
  return Math.min(Math.max(index, 0), sheet.count - 1);
}

/** The LPS coordinate of a slice along the normal. */
export function position(sheet, index) {
  return sheet.first_mm + index * sheet.step_mm;
}

export function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}
