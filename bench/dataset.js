/**
 * Replaces Analytics Engine for every variant: compares each data point with the expected one and counts
 * it. An unexpected point throws, so the variant answers 503.
 */

/** A point with this region (`blob7`) makes the dataset log the count of the others. */
const REPORT_REGION = 'bench-report';

/** @typedef {{ index: string, blobs: string[], doubles: number[] }} Expected */

/** @param {{ expected: Record<string, Expected> }} env the expected points, by `index1` */
export default function dataset({ expected }) {
  let count = 0;

  return {
    /** @param {{ indexes: string[], blobs: string[], doubles: number[] }} point */
    writeDataPoint({ indexes, blobs, doubles }) {
      // Analytics Engine takes arrays, not array-like objects.
      if (!Array.isArray(indexes) || !Array.isArray(blobs) || !Array.isArray(doubles)) {
        throw new TypeError('a data point is made of arrays');
      }
      if (blobs[6] === REPORT_REGION) {
        console.log(`${REPORT_REGION}: ${count}`);
        count = 0;
        return;
      }
      const want = expected[indexes[0]];
      if (want === undefined || indexes.length !== 1) throw new Error('an unexpected index');
      same('blob', blobs, want.blobs);
      same('double', doubles, want.doubles);
      count += 1;
    },
  };
}

/**
 * @param {string} kind
 * @param {(string | number)[]} values
 * @param {(string | number)[]} wanted
 */
function same(kind, values, wanted) {
  if (values.length !== wanted.length) throw new Error(`${values.length} ${kind}s`);
  for (let i = 0; i < wanted.length; i += 1) {
    if (values[i] !== wanted[i]) throw new Error(`${kind}${i + 1} is not as expected`);
  }
}
