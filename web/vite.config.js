// One file for the package: tlt review serves it itself, so that nothing is fetched from elsewhere.
import { defineConfig } from "vite";

export default defineConfig({
  build: {
    lib: { entry: "src/view3d.js", formats: ["es"], fileName: () => "view3d.js" },
    outDir: "../src/tlt/review/static/niivue",
    emptyOutDir: true,
    target: "es2022",
    rollupOptions: { output: { inlineDynamicImports: true } },
  },
});
