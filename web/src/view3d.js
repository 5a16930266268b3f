// Both images in three planes by NiiVue, at a reduced size, with cross-hairs that follow each other.
// NiiVue's millimetres are RAS; ours are LPS: x and y change their sign.
import { Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";

const OPTIONS = {
  isRadiologicalConvention: true,
  sliceType: SLICE_TYPE.MULTIPLANAR,
  // Ray casting takes seconds a frame without a graphics card.
  multiplanarShowRender: SHOW_RENDER.NEVER,
  sagittalNoseLeft: true,  // as our own slices are
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.36, 0.78, 1, 1],
  crosshairWidth: 1,
  loadingText: "",
  dragAndDropEnabled: false,
};

let views = null;

const turned = ([x, y, z]) => [-x, -y, z];

/**
 * Show `images` (numbers of the server) on two canvases with the cross-hairs at `points` (LPS mm).
 * `across` are two functions: a point of one image to that of the other.
 */
export async function show({ canvases, images, window: { level, width }, points, across, say }) {
  say("loading the reduced images; some seconds without a graphics card …");
  if (!views) {
    views = canvases.map(() => new Niivue(OPTIONS));
    for (const [k, view] of views.entries()) await view.attachToCanvas(canvases[k]);
  }
  for (const [k, view] of views.entries()) {
    const url = `/api/images/${images[k]}/reduced.nii`;
    if (view.shown !== url) await view.loadVolumes([{ url, name: `image${images[k]}.nii` }]);
    view.shown = url;
    view.volumes[0].cal_min = level - width / 2;
    view.volumes[0].cal_max = level + width / 2;
    view.updateGLVolume();
    view.onLocationChange = ({ mm }) => place(1 - k, across[k](turned(mm)));
  }
  points.forEach((point, k) => place(k, point));
  say("Reduced in size: look here, decide on the full slices.");
}

/** Put the cross-hair of a view at an LPS point. */
function place(k, point) {
  const view = views[k];
  if (!view.volumes.length) return;
  view.scene.crosshairPos = view.mm2frac(turned(point));
  view.drawScene();
}
